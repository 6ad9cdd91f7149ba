"""The commented recipe that `m2d init` writes: a working story with an explanation of every field.

Owns the text; writes no file.
"""

from __future__ import annotations

from m2d.recipe.fields import default_output
from m2d.recipe.loader import fit_document
from m2d.recipe.overrides import COMMAND_LINE
from m2d.recipe.schema import Recipe
from m2d.recipe.writer import yaml_scalar

_TEMPLATE = """\
# A story for m2d: several scenes with one prompt each become one coherent film.
# Check it:       m2d check {file_name}
# Make the film:  m2d generate {file_name}

title: {title}

# builtin:puppet-large comes with m2d and runs on a laptop. So does builtin:puppet, which takes half the time;
# its pictures have a third of the pixels, and its scenes half the length. For anything but puppets, give the
# folder of a CogVideoX model in diffusers layout, or its id on Hugging Face, such as zai-org/CogVideoX-5b.
model: builtin:puppet-large
# revision: main           # branch, tag or commit of a model on Hugging Face
# variant: fp16            # weights that lie in files of that name
# transformer: mask2dit    # from another folder, id or safetensors file; other parts are the model's
# vae: vae.safetensors
# text_encoder: t5

# LoRAs of a CogVideoX model, for all scenes or for some, counted from 1.
# loras: [{{path: style.safetensors, scale: 0.8, scenes: [1, 3]}}]

# The actors. m2d adds the description in brackets after every mention of a name, in every scene, because the
# frames of a scene see only the text of that scene.
# The puppet models know: round, square, tall or triangle; red, yellow, green, blue, purple or white; no hat,
# top hat, party hat or wool cap.
cast:
  Actor1: round yellow body, party hat
  Actor2: tall purple body, top hat

# The place and time of the scenes; every prompt starts with it.
# The puppet models know: park, desert, snowfield, beach, city or forest, each at noon, at dusk or at night.
setting: park at noon

# For image-to-video models: a picture that every scene starts from, beside the recipe.
# image: first-frame.png

# How many scenes are made together; by default as many as the model was trained on.
# jointly: 3
# What each later scene follows: the first scene and the last ones, or the last ones alone (recent).
# context: first

# One prompt per scene, and any number of scenes. The first scenes are generated jointly, as many as the model
# was trained on (three for the puppet models); each later scene follows from those before it. `m2d check`
# shows which. The puppet models know: walks right, walks left, jumps, waves, stands still, bows.
scenes:
  - Actor1 walks right.
  # The long form, with settings of this scene.
  - prompt: Actor1 waves. Actor2 bows.
    # setting: park at dusk  # instead of the setting above
    # seed: 5
    # guidance_scale: 4.0
    # negative_prompt: ""
    # frames: 17             # length of this scene
    # For image-to-video models: the picture that this scene starts from, and the digest that it must have.
    # image: first-frame.png
    # image_sha256: "{no_digest}"
    # match_colour: true     # or false
    # Transition from the scene before it: cut; {{crossfade: 4}}, in which both scenes share 4 frames; or
    # continue, which starts from the last frame of the scene before it.
    # join: cut
  - Actor2 jumps.

# Scheduler, steps and guidance are the model's own unless they are set here.
sampling:
  seed: 7                    # the same seed gives the same film on the same machine and threads
  # scheduler: ddim          # ddim, dpm, dpm++, euler or unipc
  # num_inference_steps: 25  # more steps are slower and give more detail
  # guidance_scale: 2.0      # 1 is no guidance; higher follows the prompt more closely
  # dynamic_guidance: false  # true varies the scale over the steps, as the CogVideoX code does
  negative_prompt: ""        # what the film must not show
  cfg: batched               # or sequential, which needs less memory
  speed: exact               # balanced and fast skip steps and estimate the error
  keep_context: true         # compute context scenes once if the mask allows; takes memory

video:
  # num_frames: 17           # per scene; the model's default sizes look best
  # height: 96               # pixels
  # width: 144
  fps: 8
  upscale: {{factor: 5, filter: lanczos}}  # enlarges the written frames; nearest keeps hard pixels
  match_colour: false        # true matches the colours of each scene to the scene before it

# The attention mask; `m2d check` draws it. In mask2dit, the paper's mask, the text of a scene sees only its
# own scene, and all videos see each other. Others: isolated, shared-text, cross-text, full, causal, window:k,
# anchor, talc.
mask: mask2dit

backend:
  name: eager                # `m2d doctor` lists what works here
  # device: cpu              # cpu, cuda or cuda:0; by default the best that is here
  # dtype: float32           # float32, bfloat16 or float16; `m2d check` says which one runs here by default
  # The next four are for models that need more memory than there is; `m2d check` predicts what a story needs.
  memory: auto               # or full, model-offload, group-offload, sequential: each slower and smaller
  quantize: none             # fp8, int8 or a .gguf file: smaller weights, slightly other frames
  vae_dtype: float32         # bfloat16 halves the memory for decoding; skies may show bands
  decode: auto               # or plain, sliced, tiled; tiles need the least memory, their edges may show
  # options: {{scope: whole}}  # options of one backend, here compile

# A file name in the working directory; --out accepts any path.
output: {output}
"""


def story_template(*, title: str = "My first story", file_name: str = "story.yaml") -> str:
    """Return the text of a new story recipe; its header names the file in commands.

    Raises:
        RecipeError: No recipe may have this title.
    """
    recipe = fit_document({"title": title, "scenes": ("A ball.",)}, Recipe, places=COMMAND_LINE).value
    # A line break would end the comment.
    shown = " ".join(file_name.split())
    return _TEMPLATE.format(
        title=yaml_scalar(recipe.title),
        file_name=shown,
        output=default_output(recipe.title),
        no_digest="0" * 64,
    )
