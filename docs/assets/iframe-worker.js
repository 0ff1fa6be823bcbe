/*
 * A page opened from a folder (file://) may not start a worker, and the search runs in one. This stands in for it:
 * the worker's script runs in a hidden frame, and messages go across. Pages from a server are left alone.
 */
"use strict";
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const script = new URL(address, document.baseURI).href;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      // What the script says arrives here as a message of the worker.
      inside.postMessage = (data) => this.tell(data);
      // It loads further scripts by address, one after the other, and waits for them as a worker would.
      inside.importScripts = (...addresses) =>
        addresses.reduce((before, next) => before.then(() => this.load(new URL(next, script).href)), Promise.resolve());
      this.ready = this.load(script);
    }

    load(address) {
      return new Promise((done, failed) => {
        const element = this.frame.contentDocument.createElement("script");
        element.src = address;
        element.onload = done;
        element.onerror = () => failed(new Error(`cannot load ${address}`));
        this.frame.contentDocument.body.append(element);
      });
    }

    tell(data) {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      if (this.onmessage) this.onmessage(event);
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
