/**
 * Tells the person in front of the page that nothing arrives, in a small element of our own.
 * @module
 */

/** A connection that is back sooner is not worth a word. */
const PATIENCE_MS = 3_000;

const STYLE: Partial<CSSStyleDeclaration> = {
  position: "fixed",
  left: "12px",
  bottom: "12px",
  maxWidth: "calc(100vw - 24px)",
  boxSizing: "border-box",
  padding: "8px 14px",
  borderRadius: "6px",
  background: "rgb(51, 51, 51)",
  color: "rgb(255, 255, 255)",
  font: "14px/1.4 system-ui, sans-serif",
  boxShadow: "0 2px 8px rgba(0, 0, 0, 0.3)",
  zIndex: "2147483647",
  pointerEvents: "none",
};

export class Notice {
  #element: HTMLElement | undefined;
  #text = "";
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Shows a text soon, or in place of the one that is shown. */
  show(text: string): void {
    this.#text = text;
    if (this.#element) {
      if (this.#element.textContent) this.#element.textContent = text;
      return;
    }
    const element = document.createElement("div");
    element.id = "handover-notice";
    // There before its text is, so that screen readers say it.
    element.setAttribute("role", "status");
    document.body.append(element);
    this.#element = element;
    this.#timer = setTimeout(() => {
      Object.assign(element.style, STYLE);
      element.textContent = this.#text;
    }, PATIENCE_MS);
  }

  hide(): void {
    clearTimeout(this.#timer);
    this.#element?.remove();
    this.#element = undefined;
  }
}
