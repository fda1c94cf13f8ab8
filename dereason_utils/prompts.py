"""Every prompt of the project. The same policy prompt serves SFT, RL and evaluation of every arm.

`model.prompt_style` is its form: 'chat' and 'plain' show small policies a worked example, in the model's chat template
or as a bare transcript; 'zero_shot' asks for reasoning and shows none.
"""

import re
from collections.abc import Sequence

from dereason_utils.errors import InputError
from dereason_utils.profiles import Model
from dereason_utils.verify.words import options

POLICY_INSTRUCTION = "Answer in \\boxed{}."
# One worked example in the styles chat and plain: without it the untrained policy of the cpu profile almost never boxes
# an answer, and rl_only would have no reward to learn from. A policy of 4B it would teach to answer as tersely.
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

# How the teacher is asked, and in the style zero_shot the policy: General-Reasoner's form (arXiv 2505.14652; reasoning
# first, then the answer, of an option its letter, in a box) in our words.
REASON = "Solve the problem step by step. End with {} in \\boxed{{}}."
_TURN_MARK = re.compile(r"<(?=\|[^|<>\s]{1,40}\|>|/?(?:s|think|tool_call)>)|\[(?=/?INST\])")


def policy_messages(question: str, style: str) -> list[dict[str, str]]:
    """Chat messages that ask the policy for a solution; in the style zero_shot those that ask the teacher."""
    if style == "zero_shot":
        return teacher_messages(question)
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


def teacher_messages(question: str) -> list[dict[str, str]]:
    """Chat messages that ask for a worked solution (the paper does not give its prompt).

    Lines that begin with A, B, ... are options, as the checker reads them; with a, b, ... more often a problem's parts.
    """
    lettered = "A" in options(question)
    goal = "the letter of the right option" if lettered else "the final answer"
    return [{"role": "user", "content": f"{question}\n\n{REASON.format(goal)}"}]


def render(messages: list[dict[str, str]], tokenizer, style: str) -> str:
    """The prompt as text, ending where the completion starts.

    style 'chat' uses the model's chat template, 'plain' a bare transcript for models that know none, 'zero_shot' the
    template where there is one. Control tokens written inside a message are taken apart first, so that data cannot forge
    a turn.
    """
    safe = [{**message, "content": defuse(message["content"], tokenizer)} for message in messages]
    if style == "plain" or (style == "zero_shot" and not tokenizer.chat_template):
        return "\n".join(message["content"] for message in safe) + "\nSolution:\n"
    if not tokenizer.chat_template:
        raise InputError(
            f"The tokenizer of {tokenizer.name_or_path} has no chat template: set model.prompt_style to plain."
        )
    return tokenizer.apply_chat_template(safe, tokenize=False, add_generation_prompt=True)


def tokenise_prompt(question: str, tokenizer, style: str) -> list[int]:
    """The policy's prompt as token ids; the same for SFT, rollouts and evaluation."""
    return tokenizer(render(policy_messages(question, style), tokenizer, style), add_special_tokens=False)[
        "input_ids"
    ]


def fitting(questions: Sequence[str], tokenizer, model: Model, max_completion: int) -> list[bool]:
    """For each question, whether its prompt and `max_completion` tokens fit into `model.max_length`.

    What does not fit is left out and counted by the caller: nothing is ever cut. Raises InputError if nothing fits.
    """
    room = model.max_length - max_completion
    fits = [len(tokenise_prompt(question, tokenizer, model.prompt_style)) <= room for question in questions]
    if not any(fits):
        raise InputError(
            f"No prompt leaves room for {max_completion} tokens within model.max_length = {model.max_length}: "
            "raise it, or lower max_completion."
        )
    return fits


def end_of_turn(tokenizer) -> str | None:
    """The special token with which the chat template closes an answer; None where it has none."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "ANSWER"}]
    closing = tokenizer.apply_chat_template(turns, tokenize=False).rpartition("ANSWER")[2].lstrip()
    return next((token for token in control_tokens(tokenizer) if closing.startswith(token)), None)


def control_tokens(tokenizer) -> list[str]:
    """Every text that the tokenizer reads as one control token, longest first; also those without a role in it."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*tokenizer.all_special_tokens, *added}, key=lambda token: (-len(token), token))


def defuse(text: str, tokenizer) -> str:
    """Break every control token that stands in the text with a blank, e.g. `<|im_end|>` -> `< |im_end|>`."""
    for token in control_tokens(tokenizer):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def defuse_turns(text: str) -> str:
    """`defuse` for a model whose tokenizer is elsewhere: breaks the marks with which chat templates end a turn."""
    return _TURN_MARK.sub(lambda mark: f"{mark[0]} ", text)
