// Shows a node's text (its `ui.text`) on the node, also when ComfyUI took the result from its cache.
//
// While a node runs, the server sends the text and the page shows it. A cached node does not run, so
// the page would keep the text of an earlier run, or show none after a reload. But the cached
// result is sent to the page again, and that is what this listens to.

import { app } from "../../../scripts/app.js";

const PREFIX = "CNPP_";
const HOST_WIDGET = "$$node-text-preview"; // what the page itself shows a running node's text in
const OWN_WIDGET = "cnpp_text";

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
    const own = node.widgets?.find((widget) => widget.name === OWN_WIDGET);
    const host = node.widgets?.find((widget) => widget.name === HOST_WIDGET);
    if (host) {
        if (own) removeWidget(node, own);
        host.value = asMarkdown(text);
    } else {
        (own ?? addWidget(node)).element.textContent = text;
    }
    node.setDirtyCanvas?.(true, true);
}

// As nodes/schema.py writes it: lines of their own need a list.
function asMarkdown(text) {
    const [heading, ...lines] = text.split("\n");
    return [heading, "", ...lines.map((line) => `- ${line}`)].join("\n");
}

function addWidget(node) {
    const element = document.createElement("div");
    Object.assign(element.style, {
        overflow: "auto",
        whiteSpace: "pre-wrap",
        fontSize: "12px",
        padding: "4px",
    });
    // Not serialised: saved workflows store widget values by position.
    const widget = node.addDOMWidget(OWN_WIDGET, "text", element, {
        serialize: false,
        getMinHeight: () => 60,
    });
    widget.serialize = false;
    if (node.computeSize && node.setSize) {
        const [width, height] = node.computeSize();
        node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
    }
    return widget;
}

function removeWidget(node, widget) {
    widget.onRemove?.();
    widget.element?.remove();
    node.widgets.splice(node.widgets.indexOf(widget), 1);
}
