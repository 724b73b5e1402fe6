// Says in a sentence why the page is not there, where its modules cannot run. A script of the old kind, because browsers
// refuse modules where they are opened without a server; its texts are its own, because the others may be what is missing.

(() => {
  const vietnamese = navigator.language.startsWith("vi");

  function say(english, translation) {
    const message = document.querySelector("#not_started");
    document.querySelector("main").hidden = true;
    message.textContent = vietnamese ? translation : english;
    message.lang = vietnamese ? "vi" : "en";
    message.hidden = false;
  }

  // What the server did not send, as far as browsers tell.
  function missing() {
    const failed = performance.getEntriesByType("resource").filter(({ responseStatus }) => responseStatus >= 400);
    const names = failed.map(({ name, responseStatus }) => `${name.split("/").pop()}: ${responseStatus}`);
    return [...new Set(names)].join(", ") || "page.js";
  }

  function sayWhy(reason) {
    say(
      `A script of this page could not be loaded (${reason}). Check your connection, and reload the page.`,
      `Không tải được một tập lệnh của trang này (${reason}). Bạn hãy kiểm tra kết nối mạng rồi tải lại trang.`,
    );
  }

  addEventListener("DOMContentLoaded", () => {
    if (location.protocol !== "file:") return;
    say(
      "Browsers run this page only from a server: in its folder, run python -m http.server, and open http://localhost:8000.",
      "Trình duyệt chỉ chạy trang này từ máy chủ: trong thư mục của trang, hãy chạy python -m http.server rồi mở http://localhost:8000.",
    );
  });
  addEventListener("error", ({ target }) => {
    if (target instanceof HTMLScriptElement && location.protocol !== "file:") sayWhy(missing());
  }, true); // errors of elements do not bubble
  // Such as texts.json, which a module waits for, or an error of a browser that is too old.
  addEventListener("unhandledrejection", ({ reason }) => document.querySelector("main").hidden && sayWhy(reason));
  addEventListener("error", ({ message }) => message && document.querySelector("main").hidden && sayWhy(message));
})();
