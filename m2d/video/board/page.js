"use strict";
(() => {
  const HOLD = 3; // The last frame stays this many frames longer, so that the end of a scene is visible.
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const playing = new Set();
  let ticking = false;

  const tick = (now) => {
    playing.forEach((clip) => clip.advance(now));
    ticking = playing.size > 0;
    if (ticking) requestAnimationFrame(tick);
  };

  // Plays while the pointer or the keyboard focus is on it; a press keeps it playing until the next press.
  const makeClip = (button) => {
    const { frames, columns, fps, poster } = Object.fromEntries(
      Object.entries(button.dataset).map(([name, value]) => [name, Number(value)]),
    );
    const image = button.querySelector("image");
    const count = button.querySelector(".count");
    // The view leaves out `x` and `y` of a frame on each side.
    const view = button.querySelector("svg").viewBox.baseVal;
    const width = view.width + 2 * view.x;
    const height = view.height + 2 * view.y;
    const state = { hovered: false, focused: false, pressed: false, stepped: false, began: 0, frame: poster };

    const show = (frame) => {
      state.frame = frame;
      image.setAttribute("x", -(frame % columns) * width);
      image.setAttribute("y", -Math.floor(frame / columns) * height);
      count.textContent = `${frame + 1}/${frames}`;
    };
    const update = () => {
      const wanted = state.pressed || ((state.hovered || state.focused) && !calm.matches && !state.stepped);
      button.setAttribute("aria-pressed", state.pressed);
      button.classList.toggle("live", wanted || state.stepped);
      if (wanted === playing.has(clip)) return;
      if (wanted) {
        state.began = performance.now();
        playing.add(clip);
        if (!ticking) requestAnimationFrame(tick);
        ticking = true;
      } else {
        playing.delete(clip);
        if (!state.stepped) show(poster);
      }
    };
    const leave = () => {
      if (state.stepped) show(poster);
      state.stepped = false;
    };
    const step = (frame) => {
      Object.assign(state, { pressed: false, stepped: true });
      update();
      show((frame + frames) % frames);
    };
    const clip = {
      advance: (now) => {
        const passed = Math.floor((Math.max(now - state.began, 0) / 1000) * fps) % (frames + HOLD);
        show(Math.min(passed, frames - 1));
      },
      press: (pressed) => {
        // A second press stops it even while the pointer is on it.
        Object.assign(state, { pressed, stepped: false }, pressed ? {} : { hovered: false, focused: false });
        playing.delete(clip);
        update();
        if (!pressed) show(poster);
      },
      isPressed: () => state.pressed,
    };

    button.addEventListener("pointerenter", (event) => {
      state.hovered = event.pointerType !== "touch";
      update();
    });
    button.addEventListener("pointerleave", () => {
      state.hovered = false;
      leave();
      update();
    });
    button.addEventListener("focus", () => {
      state.focused = button.matches(":focus-visible");
      update();
    });
    button.addEventListener("blur", () => {
      state.focused = false;
      leave();
      update();
    });
    button.addEventListener("click", () => clip.press(!state.pressed));
    button.addEventListener("keydown", (event) => {
      const target = {
        ArrowRight: state.frame + 1,
        ArrowLeft: state.frame - 1,
        Home: 0,
        End: frames - 1,
      }[event.key];
      if (event.key === "Escape") clip.press(false);
      if (target === undefined) return;
      event.preventDefault();
      step(target);
    });
    return clip;
  };

  const clips = new Map([...document.querySelectorAll(".clip")].map((button) => [button, makeClip(button)]));

  document.querySelectorAll(".together").forEach((button) => {
    const own = [...button.closest("section").querySelectorAll(".clip")].map((clip) => clips.get(clip));
    button.hidden = own.length < 2;
    button.addEventListener("click", () => {
      const pressed = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", pressed);
      button.textContent = pressed ? "Stop" : "Play all";
      own.forEach((clip) => clip.press(pressed));
    });
  });

  // The playhead follows the player; a click on the line moves the player to that time.
  const video = document.querySelector("video");
  const line = document.querySelector(".playhead");
  if (!video || !line) return;
  const follow = () => {
    const share = `${(100 * video.currentTime) / (video.duration || 1)}%`;
    line.setAttribute("x1", share);
    line.setAttribute("x2", share);
    line.classList.toggle("live", video.currentTime > 0);
    if (!video.paused) requestAnimationFrame(follow);
  };
  ["play", "seeked", "pause"].forEach((name) => video.addEventListener(name, follow));
  line.ownerSVGElement.addEventListener("click", (event) => {
    const box = line.ownerSVGElement.getBoundingClientRect();
    if (video.duration) video.currentTime = (video.duration * (event.clientX - box.left)) / box.width;
  });
})();
