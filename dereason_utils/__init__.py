"""DeReason (arXiv 2603.11193), replicated: split a corpus by reasoning intensity, SFT on the easy part, GRPO on the hard part.

One module per step of the paper, in the order in which data flows:
corpus (`mini_stem`, `corpora`) -> scores (`judge`) -> split (`split`) -> `sft` -> `grpo` -> evaluation (`evaluate`) -> `tables`, `figures`.
"""

__version__ = "0.1.0"
