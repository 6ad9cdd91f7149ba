"""The settings of a data set's pipeline: what each stage keeps, as a checked, frozen document.

Owns names, ranges and defaults; stages own what the values mean in code.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ShotSettings(_Part):
    """How films are divided.

    Attributes:
        clip_s: Longest range of a film that is read as one piece, in seconds; the paper's 10 minutes.
        detector: `m2d` compensates motion; `adaptive` is PySceneDetect's AdaptiveDetector. Both compare
            distinct pictures only. `transnetv2` is a network that sees every frame.
        dissolves: Whether gradual transitions are detected, too.
        time_limit_s: A range that takes longer to decode is rejected.
    """

    clip_s: float = Field(default=600.0, ge=1)
    detector: Literal["m2d", "adaptive", "transnetv2"] = "m2d"
    dissolves: bool = True
    time_limit_s: float = Field(default=1800.0, gt=0, le=1e6)


class FilterSettings(_Part):
    """Which shots are kept.

    Attributes:
        min_s, max_s: Shortest and longest shot, in seconds after trimming; longer ones are shortened.
        trim_frames: Frames removed at each cut.
        min_brightness: Mean level, 0 to 255, below which a shot is black.
        min_motion: Mean change between pictures, in levels, below which a shot is still.
        max_border: Largest share of the picture's height or width that a uniform border may take.
        min_sharpness: Variance of the Laplacian below which a shot is blurred; 0 keeps all.
        max_duplicate: Share of hash bits by which a shot must differ from every earlier one; 0 keeps all.
    """

    min_s: float = Field(default=2.0, ge=0)
    max_s: float = Field(default=30.0, gt=0)
    trim_frames: int = Field(default=2, ge=0)
    min_brightness: float = Field(default=12.0, ge=0)
    min_motion: float = Field(default=0.1, ge=0)
    max_border: float = Field(default=0.04, ge=0, le=1)
    min_sharpness: float = Field(default=8.0, ge=0)
    max_duplicate: float = Field(default=0.015, ge=0, le=1)


class RelateSettings(_Part):
    """Which shots belong together.

    Attributes:
        embedder: Name of the network: `puppet`, `efficientnet`, `viclip`, `clip`, `dino`, `videomae`;
            `auto` takes the attribute classifier for puppet films and EfficientNet-Lite0 otherwise.
        model: Folder or hub name of the weights of `viclip`, `clip`, `dino` or `videomae`.
        num_shots: Shots of a window: the scenes of a training sample.
        max_shots: Most shots of a group; windows that overlap are joined up to it.
        min_sim, max_sim: Range of the similarity of neighbours, or of all shots of a window by `puppet`; None
            takes the embedder's.
        max_gap_s: Longest time between neighbours in the film, such as a shot that was not kept.
        all_pairs: Whether every pair of a window must lie in the range, not only neighbours; `puppet` judges
            all shots at once anyway.
    """

    embedder: Literal["auto", "vit", "efficientnet", "puppet", "viclip", "clip", "dino", "videomae"] = "auto"
    model: str | None = None
    num_shots: int = Field(default=3, ge=1)
    max_shots: int = Field(default=6, ge=1)
    min_sim: float | None = Field(default=None, ge=-1, le=1)
    max_sim: float | None = Field(default=None, ge=-1, le=1)
    max_gap_s: float = Field(default=2.0, ge=0)
    all_pairs: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_shots < self.num_shots:
            raise ValueError(f"max_shots: {self.max_shots} is below num_shots ({self.num_shots})")
        if None not in (self.min_sim, self.max_sim) and self.min_sim > self.max_sim:  # type: ignore[operator]  # mypy does not narrow `in`
            raise ValueError(f"min_sim: {self.min_sim} is above max_sim ({self.max_sim})")
        return self


class CaptionSettings(_Part):
    """Where captions come from.

    Attributes:
        source: `sidecar` reads files beside the films, `endpoint` asks `url`, `local` runs the model of a
            folder here, `none` leaves captions empty; `auto` takes the endpoint if `url` is set, then files.
        url: Address of an OpenAI-compatible endpoint, up to `/v1`.
        model: Name of the model there, or the folder of a local vision-language model.
        key_variable: Environment variable that holds the key; the key itself is never stored.
        frames: Pictures of each shot in a request.
        max_tokens: Longest caption in tokens of `tokenizer`.
        tokenizer: Model folder or name whose tokenizer counts; the one that is to be trained.
        attempts: Requests per group before it is rejected.
        timeout_s: Longest wait for an answer.
        max_cost: Stop before the recorded cost exceeds it; None sets no limit.
        cost_per_million: Price of a million input and of a million output tokens.
    """

    source: Literal["auto", "sidecar", "endpoint", "local", "none"] = "auto"
    url: str | None = None
    model: str = "gemini-2.5-flash"
    key_variable: str = "M2D_CAPTION_KEY"
    frames: int = Field(default=8, ge=1, le=32)
    max_tokens: int | None = Field(default=None, ge=1)
    tokenizer: str | None = None
    attempts: int = Field(default=3, ge=1, le=20)
    timeout_s: float = Field(default=120.0, gt=0, le=1e6)
    max_cost: float | None = Field(default=None, ge=0)
    cost_per_million: tuple[float, float] = (0.0, 0.0)


class PackSettings(_Part):
    """What is written.

    Attributes:
        videos: Whether shots are also written as files, with the official `sft.json` and `pretrain.csv`.
    """

    videos: bool = False


class DataSettings(_Part):
    """All settings, a part for each stage."""

    shots: ShotSettings = ShotSettings()
    filter: FilterSettings = FilterSettings()
    relate: RelateSettings = RelateSettings()
    caption: CaptionSettings = CaptionSettings()
    pack: PackSettings = PackSettings()
