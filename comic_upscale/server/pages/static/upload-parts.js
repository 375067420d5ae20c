"use strict";
// Sending large files in parts by the protocol tus: after a break, each continues with the bytes that the server has.
const uploadInParts = (() => {
  const PART = 8 * 1024 * 1024, LONGEST_PAUSE = 15000;
  const PASSING = new Set([0, 423, 502, 503, 504]);
  // Too many requests in a minute pass. A quota of a day is told to the person.
  const passes = (answer) => PASSING.has(answer.status) || (answer.status === 429 && Number(answer.header("Retry-After")) <= 60);
  const address = () => `${root}/api/v1/uploads/resumable`;
  const base64 = (text) => btoa(Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join(""));

  // Resolves with the answer; its status is 0 if there was none. Rejects only if the person stops.
  function ask(method, url, headers, body, stop, onProgress) {
    return new Promise((resolve, reject) => {
      if (stop.signal.aborted) { reject(new DOMException("stopped", "AbortError")); return; }
      const request = new XMLHttpRequest();
      const abort = () => request.abort();
      request.open(method, url);
      request.setRequestHeader("Tus-Resumable", "1.0.0");
      if (document.body.dataset.csrf) request.setRequestHeader("X-CSRF-Token", document.body.dataset.csrf);
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      if (onProgress) request.upload.addEventListener("progress", (event) => onProgress(event.loaded));
      // A connection that is gone without a word would hold the part for ever.
      let watch = 0;
      const alive = () => { clearTimeout(watch); watch = setTimeout(abort, 60000); };
      request.upload.addEventListener("progress", alive);
      request.addEventListener("loadend", () => {
        clearTimeout(watch);
        stop.signal.removeEventListener("abort", abort);
        if (stop.signal.aborted) { reject(new DOMException("stopped", "AbortError")); return; }
        let content = null;
        try { content = JSON.parse(request.responseText); } catch { /* An answer without words. */ }
        resolve({ status: request.status, content, header: (name) => request.getResponseHeader(name) });
      });
      stop.signal.addEventListener("abort", abort);
      alive();
      request.send(body);
    });
  }

  // Waits a while, or until the connection comes back.
  function pause(milliseconds, stop) {
    return new Promise((resolve, reject) => {
      const end = () => {
        clearTimeout(timer);
        removeEventListener("online", end);
        stop.signal.removeEventListener("abort", end);
        if (stop.signal.aborted) reject(new DOMException("stopped", "AbortError")); else resolve();
      };
      const timer = setTimeout(end, milliseconds);
      addEventListener("online", end);
      stop.signal.addEventListener("abort", end);
    });
  }

  class Refused extends Error {
    constructor(answer) {
      super(answer.content?.error?.message || `The server answered ${answer.status}. Try again.`);
      this.status = answer.status;
    }
  }

  class Sender {
    constructor(stop, onProgress, onBreak) { Object.assign(this, { stop, onProgress, onBreak, wait: 500 }); }

    // Asks until an answer comes that another try would not change.
    async sure(method, url, headers = {}, body = null) {
      for (;;) {
        const answer = await ask(method, url, headers, body, this.stop);
        if (!passes(answer)) return answer;
        await this.rest(answer);
      }
    }

    async rest(answer) {
      this.onBreak(answer.status);
      const asked = Number(answer.header?.("Retry-After")) * 1000 || 0;
      await pause(Math.max(this.wait, asked), this.stop);
      this.wait = Math.min(this.wait * 2, LONGEST_PAUSE);
    }

    async offset(item) {
      const answer = await this.sure("HEAD", item.parts);
      if (answer.status === 200) return Number(answer.header("Upload-Offset"));
      if (answer.status !== 404) throw new Refused(answer);
      item.parts = null;
      return 0;
    }

    async begin(item, fields) {
      const pairs = [["filename", item.file.name], ...fields].map(([name, text]) => `${name} ${base64(text)}`);
      const headers = { "Upload-Length": String(item.file.size), "Upload-Metadata": [...pairs, "hold"].join(",") };
      const answer = await this.sure("POST", address(), headers);
      if (answer.status !== 201) throw new Refused(answer);
      item.parts = `${address()}/${answer.header("Location").split("/").pop()}`;
    }

    async send(item, fields, before) {
      let offset = item.parts ? await this.offset(item) : 0;
      if (!item.parts) await this.begin(item, fields);
      while (offset < item.file.size) {
        this.onProgress(before + offset);
        const headers = { "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
        const answer = await ask("PATCH", item.parts, headers, item.file.slice(offset, offset + PART), this.stop,
          (sent) => this.onProgress(before + offset + sent));
        if (answer.status === 204) { offset = Number(answer.header("Upload-Offset")); this.wait = 500; continue; }
        if (!passes(answer) && answer.status !== 409) throw new Refused(answer);
        await this.rest(answer);
        offset = await this.offset(item);
        if (!item.parts) throw new Error("The server no longer has this upload. Send it again.");
      }
    }
  }

  // Uploads chosen files, and returns the id of their job. Called again after a failure, it continues.
  return async (items, fields, stop, onProgress, onBreak) => {
    const sender = new Sender(stop, onProgress, onBreak);
    let before = 0;
    for (const item of items) {
      await sender.send(item, fields, before);
      before += item.file.size;
    }
    onProgress(before);
    const body = JSON.stringify({ uploads: items.map((item) => item.parts.split("/").pop()), fields: Object.fromEntries(fields) });
    const answer = await sender.sure("POST", `${address()}/complete`, { "Content-Type": "application/json" }, body);
    if (answer.status !== 202) throw new Refused(answer);
    return answer.content.job_id;
  };
})();
