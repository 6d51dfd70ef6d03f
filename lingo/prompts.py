"""The language prompt around a sequence (paper section 4.3.1)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """Text before and after a sequence."""

    prefix: str
    suffix: str

    def around(self, sequence: str) -> str:
        """The complete input text of the backbone."""
        return f"{self.prefix}{sequence}{self.suffix}"


def prompt_for(domain: str) -> Prompt:
    """The paper's prompt for a task whose sequences are of this domain, such as `DNA Promoter`.

    Raises:
        ValueError: If `domain` is empty or has more than one line.
    """
    if not domain.strip() or len(domain.splitlines()) != 1:
        raise ValueError(f"`domain` must be one line of text, but got {domain!r}.")
    return Prompt(prefix=f"Domain: {domain}\nSequence: ", suffix="\nAnnotation:")
