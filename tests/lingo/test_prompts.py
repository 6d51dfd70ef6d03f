import pytest

from lingo.prompts import Prompt, prompt_for


def test_wording_of_paper_section_4_3_1():
    assert prompt_for("DNA Promoter").around("ACGT") == "Domain: DNA Promoter\nSequence: ACGT\nAnnotation:"
    assert prompt_for("DNA Promoter") == Prompt("Domain: DNA Promoter\nSequence: ", "\nAnnotation:")


@pytest.mark.parametrize("domain", ["", "  ", "two\nlines", "ends\n\n"])
def test_domain_is_one_line(domain):
    with pytest.raises(ValueError, match="`domain` must be one line of text"):
        prompt_for(domain)
