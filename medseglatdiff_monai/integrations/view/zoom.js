// Zoom and move the image: wheel, drag, and zoomStage from buttons and keys. Nothing of this concerns the server.
window.zoomStage = (factor, event) => {
  const stage = document.querySelector(".stage");
  const old = parseFloat(stage.style.getPropertyValue("--zoom")) || 1;
  const zoom = factor ? Math.min(16, Math.max(1, old * factor)) : 1;
  const image = stage.firstElementChild;
  const around = event || { clientX: stage.getBoundingClientRect().x + stage.clientWidth / 2,
                            clientY: stage.getBoundingClientRect().y + stage.clientHeight / 2 };
  const before = image.getBoundingClientRect();
  stage.style.setProperty("--zoom", zoom);
  // What was below the cursor stays there.
  const after = image.getBoundingClientRect();
  stage.scrollLeft += after.x + ((around.clientX - before.x) / before.width) * after.width - around.clientX;
  stage.scrollTop += after.y + ((around.clientY - before.y) / before.height) * after.height - around.clientY;
};
window.watchStage = () => {
  const stage = document.querySelector(".stage");
  let from = null, moved = false;
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomStage(Math.exp(-event.deltaY / 400), event);
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => {
    moved = false;
    // Fingers scroll by themselves.
    from = event.pointerType === "mouse" && event.button === 0 ? [event.clientX, event.clientY] : null;
  });
  stage.addEventListener("pointermove", (event) => {
    if (!from || !event.buttons || stage.classList.contains("brushing")) return;
    const [x, y] = [event.clientX - from[0], event.clientY - from[1]];
    if (!moved && Math.hypot(x, y) < 5) return;
    moved = true;
    stage.scrollLeft -= x;
    stage.scrollTop -= y;
    from = [event.clientX, event.clientY];
  });
  // The click that ends a drag points at nothing.
  stage.addEventListener("click", (event) => moved && event.stopPropagation(), true);
};
