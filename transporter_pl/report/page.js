// The clips start together, and stand still for those who asked their system for less motion.
const clips = [...document.querySelectorAll("video")], button = document.getElementById("play");
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
const show = () => {
  button.textContent = playing ? "Pause" : "Play";
  for (const clip of clips) playing ? (clip.currentTime = 0, clip.play().catch(() => {})) : clip.pause();
};
button.hidden = !clips.length;
for (const clip of clips) clip.controls = false;  // the button serves all; without a script each has its own
button.addEventListener("click", () => { playing = !playing; show(); });
addEventListener("load", show);
