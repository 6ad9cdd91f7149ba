"use strict";
(() => {
  const strips = JSON.parse(document.getElementById("data").textContent).strips;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

  function show(place, picture) {
    const strip = strips[place.dataset.shot];
    const share = strip.count > 1 ? (100 * picture) / (strip.count - 1) : 0;
    place.style.backgroundPosition = `${share}% 0`;
    place.dataset.picture = String(picture);
  }

  for (const place of document.querySelectorAll(".strip")) {
    const strip = strips[place.dataset.shot];
    place.style.aspectRatio = `${strip.width} / ${strip.height}`;
    place.style.backgroundImage = `url(${strip.uri})`;
    place.style.backgroundSize = `${100 * strip.count}% 100%`;
    show(place, Math.floor(strip.count / 2));
  }

  for (const group of document.querySelectorAll(".group")) {
    const button = group.querySelector(".play");
    const places = [...group.querySelectorAll(".strip")];
    let timer = 0;
    let shot = 0;
    let picture = -1;

    function step() {
      picture += 1;
      if (picture >= strips[places[shot].dataset.shot].count) {
        picture = 0;
        shot = (shot + 1) % places.length;
      }
      show(places[shot], picture);
      const strip = strips[places[shot].dataset.shot];
      timer = setTimeout(step, (1000 * strip.duration_s) / strip.count);
    }

    function stop() {
      clearTimeout(timer);
      timer = 0;
      button.setAttribute("aria-pressed", "false");
      for (const place of places) show(place, Math.floor(strips[place.dataset.shot].count / 2));
    }

    function start() {
      stop();
      shot = 0;
      picture = -1;
      step();
    }

    button.addEventListener("click", () => {
      if (button.getAttribute("aria-pressed") === "true") {
        stop();
      } else {
        start();
        button.setAttribute("aria-pressed", "true");
      }
    });
    if (!still) {
      group.addEventListener("mouseenter", () => { if (!timer) start(); });
      group.addEventListener("mouseleave", () => {
        if (button.getAttribute("aria-pressed") !== "true") stop();
      });
    }
  }
})();
