// Shows a node's text (its `ui.text`) on the node, also when ComfyUI took the result from its cache.
//
// While a node runs, the server sends the text and the page shows it. A cached node does not run, so
// the page would keep the text of an earlier run, or show none after a reload. But the cached
// result is sent to the page again, and that is what this listens to. The classic page also cuts
// the text of a running node after some lines; there ours takes its place.

import { app } from "../../../scripts/app.js";

const PREFIX = "CNPP_";
const HOST_WIDGET = "$$node-text-preview"; // what the page itself shows a running node's text in
const OWN_WIDGET = "cnpp_text";
const MARGIN = 10; // the classic page's, above and below the element of a widget

app.registerExtension({
    name: "ControlNetPlusPlus.ShowText",

    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!nodeData.name?.startsWith(PREFIX)) return;
        const onExecuted = nodeType.prototype.onExecuted;
        nodeType.prototype.onExecuted = function (output, ...rest) {
            onExecuted?.call(this, output, ...rest);
            if (output?.text) showText(this, [output.text].flat().join("\n"));
        };
    },
});

function showText(node, text) {
    const find = (name) => node.widgets?.find((widget) => widget.name === name);
    const [own, host] = [find(OWN_WIDGET), find(HOST_WIDGET)];
    const inHost = text && host && globalThis.LiteGraph?.vueNodesMode;
    if (own && (inHost || !text)) removeWidget(node, own);
    if (host && !inHost) removeWidget(node, host);
    if (inHost) host.value = asMarkdown(text);
    else if (text) (own ?? addWidget(node)).element.firstChild.textContent = text;
    node.setDirtyCanvas?.(true, true);
}

// As nodes/schema.py writes it: lines of their own need a list.
function asMarkdown(text) {
    const [heading, ...lines] = text.split("\n");
    return [heading, "", ...lines.map((line) => `- ${line}`)].join("\n");
}

function addWidget(node) {
    const shown = document.createElement("div");
    Object.assign(shown.style, {
        whiteSpace: "pre-wrap",
        fontSize: "12px",
        padding: "0 4px",
    });
    const element = document.createElement("div"); // the page stretches this one over all its space
    element.append(shown);
    // Its height is known when the page has laid it out, and changes with the node's width.
    const height = () => shown.offsetHeight + 2 * MARGIN;
    new ResizeObserver(() => node.setDirtyCanvas?.(true, true)).observe(shown);
    // Nodes 2.0 draws types that it knows ("text") itself, from a value, and leaves out the element.
    // Not serialised: saved workflows store widget values by position.
    const widget = node.addDOMWidget(OWN_WIDGET, OWN_WIDGET, element, {
        serialize: false,
        getMinHeight: height,
        getMaxHeight: height,
    });
    widget.serialize = false;
    return widget;
}

function removeWidget(node, widget) {
    widget.onRemove?.();
    widget.element?.remove();
    node.widgets.splice(node.widgets.indexOf(widget), 1);
}
