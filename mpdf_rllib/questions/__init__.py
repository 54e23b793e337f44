"""Questions, where they come from, and their checkers."""

from mpdf_rllib.questions.families import Family, Split, generate_questions
from mpdf_rllib.questions.files import file_questions
from mpdf_rllib.questions.question import Answer, Kind, Question, checking, equivalent, parse_answer

__all__ = [
    "Answer",
    "Family",
    "Kind",
    "Question",
    "Split",
    "checking",
    "equivalent",
    "file_questions",
    "generate_questions",
    "parse_answer",
]
