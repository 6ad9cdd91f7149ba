"""The commented recipe that `m2d init` writes: a story that works, and every field explained beside it.

Owns the text; writes no file.
"""

from __future__ import annotations

from m2d.recipe.fields import default_output
from m2d.recipe.writer import yaml_scalar

_TEMPLATE = """\
# A story for m2d: several scenes, one prompt each, one coherent film.
# Look at it before you run it:  m2d check {file_name}
# Make the film:                 m2d generate {file_name}

title: {title}

# builtin:puppet comes with m2d and runs on a laptop; builtin:puppet-large too, with a picture three times as
# large and scenes twice as long, in twice the time. For another world, give the folder of a downloaded
# CogVideoX model in diffusers layout.
model: builtin:puppet

# Who plays. Every mention of a name in a prompt gets its description in brackets, in every scene: a scene's
# text is all that its own frames can read.
# The puppet theatre knows: round, square, tall or triangle; red, yellow, green, blue, purple or white; no
# hat, top hat, party hat or wool cap.
cast:
  Actor1: round yellow body, party hat
  Actor2: tall purple body, top hat

# Where all scenes take place; it opens every prompt.
# The puppet theatre knows: park, desert, snowfield, beach, city or forest, each at noon, at dusk or at night.
setting: park at noon

# One prompt per scene, and as many scenes as you like. As many as the model was trained on are made jointly
# (the puppet theatre's stories have three), every later one after those before it; `m2d check` shows which.
# It knows: walks right, walks left, jumps, waves, stands still, bows.
scenes:
  - Actor1 walks right.
  # The long form, with what may differ for one scene.
  - prompt: Actor1 waves. Actor2 bows.
    # seed: 5
    # guidance_scale: 4.0
    # negative_prompt: ""
    # frames: 9              # length of this scene
    # match_colour: true     # or false
    # How it follows the scene before it: cut; {{crossfade: 4}}, frames that both scenes share; or continue,
    # which starts it from the last frame of the scene before it.
    # join: cut
  - Actor2 jumps.

sampling:
  scheduler: ddim            # ddim, dpm, dpm++, euler or unipc; without it, the model's own
  num_inference_steps: 25    # more is slower and finer
  guidance_scale: 3.0        # 1 is no guidance; more follows the prompt more closely
  negative_prompt: ""        # what to steer away from
  seed: 7                    # the same seed on the same machine gives the same film
  cfg: batched               # sequential needs less memory
  speed: exact               # balanced and fast leave steps out, and say how wrong that may be
  keep_context: true         # scenes that are given are computed once where the mask allows; takes memory

video:
  # num_frames: 9            # per scene; what is not given is the model's own, which it knows best
  # height: 64               # pixels
  # width: 64
  fps: 8
  upscale: 6                 # whole-number enlargement when the film is written
  match_colour: false        # true corrects each scene's colours towards those of the scene before it

# Which tokens may see which; `m2d check` draws it. The paper's mask: every text sees its own scene, all
# videos see each other. Others: isolated, shared-text, cross-text, full, causal, window:k, anchor.
mask: mask2dit

backend:
  name: eager                # `m2d doctor` lists what works here
  device: cpu                # cpu, cuda or cuda:0
  dtype: float32             # float32, bfloat16 or float16
  # options: {{scope: whole}}  # what only one backend knows, here compile

# A file name in the working directory; --out takes any path.
output: {output}
"""


def story_template(*, title: str = "My first story", file_name: str = "story.yaml") -> str:
    """Return the text of a new story recipe.

    Args:
        title: The story's title.
        file_name: How the recipe will be called; it stands in the commands at its top.
    """
    # A comment ends with its line.
    shown = " ".join(file_name.split())
    return _TEMPLATE.format(title=yaml_scalar(title), file_name=shown, output=default_output(title))
