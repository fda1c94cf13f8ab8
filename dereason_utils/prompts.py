"""Every prompt of the project. The same policy prompt serves SFT, RL and evaluation of every arm."""

POLICY_INSTRUCTION = "Answer in \\boxed{}."
# One worked example in every prompt: without it the untrained policy of the cpu profile almost never boxes an answer,
# and rl_only would have no reward to learn from. The same prompt serves every arm.
EXAMPLE = ("Ann has 3 pens and buys 4 more. How many pens has she?", "3 + 4 = 7. \\boxed{7}")

JUDGE_INSTRUCTION = """Rate how much reasoning a problem demands; do not solve it. Think about how many steps a solution
takes, how far the problem must be broken down, and how strongly later steps depend on earlier ones. The scale:
1 = recall or look-up
2 = one or two steps
3 = a clear chain of about three to five steps
4 = about five to eight dependent steps with intermediate results
5 = more than eight nested steps or a proof
First write a short analysis, then a last line `ReasoningRequired: <1-5>`."""

# What the small judge of the cpu profile sees: it is tuned on the rubric, so the rubric itself would only cost time.
JUDGE_SHORT_INSTRUCTION = "How many reasoning steps does this problem need? Rate it from 1 to 5."


def policy_messages(question: str) -> list[dict[str, str]]:
    """Chat messages that ask the policy for a solution."""
    asked, answered = EXAMPLE
    return [
        {"role": "system", "content": POLICY_INSTRUCTION},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": answered},
        {"role": "user", "content": question},
    ]


def judge_messages(question: str, short: bool) -> list[dict[str, str]]:
    """Chat messages that ask the judge for an analysis and a rating of 1 to 5 (paper, appendix A.1, in our words)."""
    instruction = JUDGE_SHORT_INSTRUCTION if short else JUDGE_INSTRUCTION
    return [{"role": "system", "content": instruction}, {"role": "user", "content": f"Problem: {question}"}]


def render(messages: list[dict[str, str]], tokenizer, style: str) -> str:
    """The prompt as text, ending where the completion starts.

    style 'chat' uses the model's chat template, 'plain' a bare transcript for models that know none. Control tokens
    written inside a message are taken apart first, so that data cannot forge a turn.
    """
    safe = [{**message, "content": defuse(message["content"], tokenizer)} for message in messages]
    if style == "plain":
        return "\n".join(message["content"] for message in safe) + "\nSolution:\n"
    return tokenizer.apply_chat_template(safe, tokenize=False, add_generation_prompt=True)


def tokenise_prompt(question: str, tokenizer, style: str) -> list[int]:
    """The policy's prompt as token ids; the same for SFT, rollouts and evaluation."""
    return tokenizer(render(policy_messages(question), tokenizer, style), add_special_tokens=False)[
        "input_ids"
    ]


def defuse(text: str, tokenizer) -> str:
    """Break every special token that stands in the text with a blank, e.g. `<|im_end|>` -> `< |im_end|>`."""
    for token in sorted(tokenizer.all_special_tokens, key=len, reverse=True):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
