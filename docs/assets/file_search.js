// Opened from a folder (file://) a page gets no worker from the browser, and the search needs one:
// here it runs in a hidden frame. Served over HTTP, this file does nothing.
if (location.protocol === "file:") {
  class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      const inside = frame.contentWindow;
      inside.postMessage = (data) =>
        setTimeout(() => {
          const event = new MessageEvent("message", { data });
          this.dispatchEvent(event);
          if (this.onmessage) this.onmessage(event);
        });
      inside.importScripts = (...urls) =>
        urls.reduce((done, next) => done.then(() => load(frame, next)), Promise.resolve());
      load(frame, url).then(() => {
        this.inside = inside;
        this.waiting.splice(0).forEach((data) => this.postMessage(data));
      });
    }

    postMessage(data) {
      if (!this.inside) this.waiting.push(data);
      else setTimeout(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {}
  }

  function load(frame, url) {
    return new Promise((loaded, failed) => {
      const script = frame.contentDocument.createElement("script");
      script.onload = loaded;
      script.onerror = failed;
      script.src = url;
      frame.contentDocument.body.appendChild(script);
    });
  }

  window.IFrameWorker = window.Worker = FrameWorker;
}
