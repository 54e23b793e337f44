"""Questions, where they come from, and their checkers."""

from mpdf_rllib.questions.checker import Answer, Checker
from mpdf_rllib.questions.families import Family, Split, generate_questions
from mpdf_rllib.questions.files import file_questions
from mpdf_rllib.questions.question import Kind, Question, checking

__all__ = [
    "Answer",
    "Checker",
    "Family",
    "Kind",
    "Question",
    "Split",
    "checking",
    "file_questions",
    "generate_questions",
]
