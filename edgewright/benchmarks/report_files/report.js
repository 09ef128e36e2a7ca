// Draws the charts, filters the list of flipped samples, copies digests, opens what is folded before printing.
(function () {
  "use strict";
  // Labels at points: Vega-Lite cannot place them so that they avoid each other, Vega can. The mark is added after compiling.
  function withLabels(name) {
    return function (spec) {
      var names = spec.marks.map(function (mark) { return mark.name; });
      var base = names.find(function (mark) { return new RegExp(name + "_marks$").test(mark || ""); });
      if (!base) return spec;
      spec.marks.push({
        type: "text",
        name: "labels",
        aria: false,
        from: { data: base },
        interactive: false,
        encode: {
          enter: {
            text: { field: "datum.label" },
            fill: { field: "datum.colour" },
            stroke: { value: "var(--panel)" },
            strokeWidth: { value: 3 },
            fontSize: { value: 11 },
            limit: { value: 150 }
          }
        },
        transform: [{
          type: "label",
          size: { signal: "[width + 8, height]" },
          anchor: ["top-right", "top", "top-left", "right", "left", "bottom-right", "bottom", "bottom-left"],
          offset: [4, 4, 4, 7, 7, 4, 4, 4],
          avoidMarks: names.filter(function (mark) { return mark && /(rules|ybars|xbars)_marks$/.test(mark); })
        }]
      });
      return spec;
    };
  }

  function draw(chart) {
    var holder = document.getElementById(chart.id);
    if (!holder) return Promise.resolve();
    return window.vegaEmbed(holder, chart.spec, {
      mode: "vega-lite",
      renderer: "svg",
      actions: false,
      ast: true,
      defaultStyle: false,
      hover: false,
      tooltip: { disableDefaultStyle: true },
      patch: chart.labels ? withLabels(chart.labels) : undefined
    }).then(function (result) {
      holder.dataset.drawn = "yes";
      watch(holder, result.view);
    }, function (error) {
      holder.classList.add("failed");
      console.error(chart.id + ": " + error);
    });
  }

  // Vega follows the window's size only; a container can change without it (a scroll bar appears, the page is printed).
  function watch(holder, view) {
    if (!window.ResizeObserver) return;
    var width = holder.clientWidth;
    new ResizeObserver(function () {
      if (holder.clientWidth && holder.clientWidth !== width) {
        width = holder.clientWidth;
        view.resize();
        window.dispatchEvent(new Event("resize"));
      }
    }).observe(holder);
  }

  var charts = JSON.parse(document.getElementById("chart-data").textContent);
  charts.reduce(function (before, chart) { return before.then(function () { return draw(chart); }); }, Promise.resolve())
    .then(function () { document.documentElement.dataset.charts = "drawn"; });

  var flips = document.getElementById("flips");
  if (flips) {
    var rows = Array.prototype.slice.call(flips.querySelectorAll("tbody tr"));
    var totals = JSON.parse(flips.dataset.totals);
    var byFile = document.getElementById("flips-file"), byEffect = document.getElementById("flips-effect");
    var filter = function () {
      var shown = 0;
      rows.forEach(function (row) {
        row.hidden = (byFile.value && row.dataset.file !== byFile.value) || (byEffect.value && row.dataset.effect !== byEffect.value);
        shown += row.hidden ? 0 : 1;
      });
      var all = 0;
      totals.forEach(function (total) {
        if (!byFile.value || String(total.file) === byFile.value) {
          all += byEffect.value ? total[byEffect.value] : total.broken + total.fixed + total.neither;
        }
      });
      document.getElementById("flips-count").textContent = shown.toLocaleString("en") + " of " + all.toLocaleString("en");
    };
    byFile.addEventListener("change", filter);
    byEffect.addEventListener("change", filter);
    // A browser that restores a form's state on reloading does not say so: the list must agree with what the form shows.
    filter();
  }

  document.addEventListener("click", function (event) {
    var button = event.target.closest ? event.target.closest("[data-copy]") : null;
    if (!button) return;
    var told = function () {
      var label = button.dataset.label || (button.dataset.label = button.textContent);
      button.textContent = "copied";
      setTimeout(function () { button.textContent = label; }, 1200);
    };
    if (navigator.clipboard && navigator.clipboard.writeText) {
      navigator.clipboard.writeText(button.dataset.copy).then(told, function () {});
    }
  });

  var folded = [];
  window.addEventListener("beforeprint", function () {
    folded = Array.prototype.slice.call(document.querySelectorAll("details:not([open]):not(.bulk)"));
    folded.forEach(function (part) { part.open = true; });
  });
  window.addEventListener("afterprint", function () {
    folded.forEach(function (part) { part.open = false; });
  });
})();
