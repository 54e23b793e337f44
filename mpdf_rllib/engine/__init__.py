"""Language-model engines: requests, generations, and what answers them. Importing this loads no model library."""

from mpdf_rllib.engine.event_loop import run
from mpdf_rllib.engine.recording import RecordingEngine
from mpdf_rllib.engine.types import (
    Engine,
    Generation,
    GenerationRequest,
    Message,
    Position,
    SamplingParameters,
    generate_many,
)

__all__ = [
    "Engine",
    "Generation",
    "GenerationRequest",
    "Message",
    "Position",
    "RecordingEngine",
    "SamplingParameters",
    "generate_many",
    "run",
]
