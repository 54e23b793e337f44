"use strict";

// Text of models and questions comes into the page by textContent alone.
const make = (tag, attributes, ...children) => {
  const svg = ["svg", "g", "line", "rect", "text", "circle", "title"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const byId = (id) => document.getElementById(id);
const read = (id) => JSON.parse(byId(id).textContent);
const mark = (correct) => (correct === null ? "" : correct ? " ✓" : " ✗");
const shown = (answer) => (answer === null ? "none" : answer);
const short = (answer) => (shown(answer).length > 40 ? `${answer.slice(0, 39)}…` : shown(answer));
const counted = ([prompt, cached, generated]) => `${prompt} prompt tokens (${cached} cached) + ${generated} generated`;

// Plots are drawn when they come into view, in the page's colours.

const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 48rem)");
const axis = byId("axis");

function coloured(layout) {
  const style = getComputedStyle(document.documentElement);
  const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name));
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  return {
    ...layout,
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { color: text, family: "system-ui, sans-serif" },
    title: { ...layout.title, font: { size: 14 } },
    margin: { t: 50, r: 10 },
    legend: narrow.matches ? { orientation: "h", y: -0.4 } : layout.legend,
    xaxis: { ...layout.xaxis, ...axis },
    yaxis: { ...layout.yaxis, ...axis },
  };
}

function draw(plot) {
  const { data, layout } = JSON.parse(plot.querySelector("script").textContent);
  if (layout.meta?.axes) {
    layout.meta.axes[axis.value].forEach((x, trace) => (data[trace].x = x));
    layout.xaxis.title.text = `${axis.value} a question`;
  }
  const options = { responsive: true, displaylogo: false, displayModeBar: false };
  Plotly.react(plot.querySelector("div"), data, coloured(layout), options);
  plot.dataset.drawn = "";
}

const inView = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting && !("drawn" in target.dataset)) draw(target);
  }
});
document.querySelectorAll(".plot").forEach((plot) => inView.observe(plot));
for (const media of [dark, narrow]) {
  media.addEventListener("change", () => document.querySelectorAll(".plot[data-drawn]").forEach(draw));
}

axis?.addEventListener("change", () => draw(axis.closest("section").querySelector(".plot")));

const setting = byId("setting");
function chooseSetting() {
  for (const shares of document.querySelectorAll("[data-setting]")) {
    shares.hidden = shares.dataset.setting !== setting.value;
  }
}
if (setting) {
  setting.addEventListener("change", chooseSetting);
  chooseSetting();
}

// The browser of debates.

const FILTERS = {
  "all questions": () => true,
  "wrong to right": ({ began }, ended) => !began && ended,
  "right to wrong": ({ began }, ended) => began && !ended,
  "agents disagree": ({ disagree }) => disagree,
  "wrong in the end": (question, ended) => !ended,
};
const [WIDTH, HEIGHT, GAP_X, GAP_Y] = [112, 34, 48, 14];

function listQuestions() {
  const [run, policy] = chosenPolicy();
  const words = byId("search").value.toLowerCase();
  const questions = runs[run].questions.map((question, number) => ({ ...question, number }));
  const before = byId("questions").value;
  const found = questions.filter((question) => `${question.id} ${question.text}`.toLowerCase().includes(words));
  for (const option of byId("filter").options) {
    const number = found.filter((question) => FILTERS[option.value](question, question.ended[policy])).length;
    option.textContent = `${option.value} (${number})`;
  }
  const kept = found.filter((question) => FILTERS[byId("filter").value](question, question.ended[policy]));
  byId("questions").replaceChildren(
    ...kept.map(({ number, id, text, began, ended }) => {
      const became = [began, ended[policy]].map((correct) => (correct ? "✓" : "✗")).join("→");
      return make("option", { value: number }, `${became} ${id}: ${text.slice(0, 80)}`);
    }),
  );
  const stays = kept.findIndex(({ number }) => String(number) === before);
  byId("questions").selectedIndex = kept.length ? Math.max(stays, 0) : -1;
  showDebate();
}

function chosenPolicy() {
  return byId("policy").value.split(" ").map(Number);
}

function showDebate() {
  const [run, policy] = chosenPolicy();
  const number = byId("questions").value;
  if (number === "") {
    byId("debate").replaceChildren(make("p", {}, "No question is like that."));
    return;
  }
  const question = read(`question-${run}-${number}`);
  const walk = question.walks[policy];
  const solution = make("section", { id: "solution", "aria-live": "polite" });
  const tell = (node) => solution.replaceChildren(...toldSolution(question, node, runs[run].features));
  const show = (node) => {
    tell(node);
    solution.scrollIntoView({ block: "nearest" });
  };
  const tree = make("div", { id: "tree", class: "wide" });
  const steps = make("div", { id: "steps", role: "group", "aria-label": "rounds" });
  const step = (round) => {
    [...steps.children].forEach((button, at) => button.setAttribute("aria-pressed", at === round));
    tree.replaceChildren(drawnTree(question, walk, round, show));
  };
  const names = [...walk.rounds.map((_, round) => `round ${round + 1}`), "end"];
  names.forEach((name, round) => {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => step(round));
    steps.append(button);
  });
  const verdict = walk.correct === null ? "" : walk.correct ? ", which is right" : ", which is wrong";
  byId("debate").replaceChildren(
    make("h3", {}, question.id),
    make("pre", {}, question.text),
    make("p", {}, `Right answer: ${shown(question.right)}`),
    make("p", { id: "said" }, `The team answered ${short(walk.answer)}${verdict}, for ${counted(walk.tokens)}.`),
    make("h4", {}, "The walk"),
    make("div", { class: "wide" }, toldWalk(question, walk, show)),
    make("h4", {}, "The solutions, and where the agents stand before each round"),
    steps,
    tree,
    solution,
  );
  step(0);
  tell(walk.team_node ?? walk.final[0]);
}

function toldWalk(question, walk, show) {
  const agents = walk.final.map((_, agent) => make("th", { scope: "col" }, `agent ${agent}`));
  const head = make("tr", {}, ...["before", "team's answer", "tokens so far"].map((name) => make("th", {}, name)), ...agents);
  const row = (name, round, answer, cells) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, name),
      make("td", {}, short(answer)),
      make("td", {}, spentBefore(question, walk, round)),
      ...cells.map((children) => make("td", {}, ...children)),
    );
  const rows = walk.rounds.map(({ answer, decisions }, round) =>
    row(
      `round ${round + 1}`,
      round,
      answer,
      decisions.map((decision, agent) => [
        solutionButton(question, decision.node, show),
        toldDecision(decision, agent),
      ]),
    ),
  );
  const last = walk.final.map((node) => [solutionButton(question, node, show)]);
  const body = make("tbody", {}, ...rows, row("the end", walk.rounds.length, walk.answer, last));
  return make("table", { id: "walk" }, make("thead", {}, head), body);
}

function solutionButton(question, node, show) {
  const { answer, correct } = question.nodes[node];
  const button = make("button", { type: "button" }, `#${node}: ${short(answer)}${mark(correct)}`);
  button.addEventListener("click", () => show(node));
  return button;
}

function toldDecision({ probabilities, action, target }, agent) {
  const list = make("ul", { class: "probabilities" });
  probabilities.forEach((probability, at) => {
    const name = actionName(at, agent, probabilities.length);
    const bar = make("span", { class: "bar" });
    bar.style.width = `${100 * probability}%`;
    const item = make("li", at === action ? { class: "taken" } : {}, bar, `${name} ${probability.toFixed(2)}`);
    if (at === action) item.append(target === null || name !== "Concede" ? " ◂" : ` to ${target} ◂`);
    list.append(item);
  });
  return list;
}

// Where Concede is an action for each peer, the peers are all agents but the one that acts.
function actionName(action, agent, number) {
  if (action < 2 || number === 3) return ["Persist", "Refine", "Concede"][action];
  return `Concede to ${action - 2 + (action - 2 >= agent)}`;
}

const standing = (walk, round) => walk.rounds[round]?.decisions.map(({ node }) => node) ?? walk.final;

function spentBefore(question, walk, round) {
  const visited = new Set();
  for (let before = 0; before <= round; before += 1) {
    standing(walk, before).forEach((node) => visited.add(node)); // whose ancestors were stood on before
  }
  const tokens = [0, 1, 2].map((kind) => [...visited].reduce((sum, node) => sum + question.nodes[node].tokens[kind], 0));
  return counted(tokens);
}

function drawnTree(question, walk, round, show) {
  const places = placed(question.nodes);
  const xs = Object.values(places).map(({ x }) => x);
  const ys = Object.values(places).map(({ y }) => y);
  const [width, height] = [Math.max(...xs) + WIDTH + 2 * GAP_X, Math.max(...ys) + HEIGHT + GAP_Y];
  const svg = make("svg", { viewBox: `-4 -4 ${width} ${height}`, width, height, role: "group", "aria-label": "solutions" });
  for (const [node, { parent }] of Object.entries(question.nodes)) {
    if (parent !== null) svg.append(edge(places[parent], places[node], "chain"));
  }
  const [here, next] = [standing(walk, round), standing(walk, round + 1)];
  here.forEach((node, agent) => {
    if (round < walk.rounds.length && next[agent] !== node) svg.append(edge(places[node], places[next[agent]], "move"));
  });
  for (const [node, { answer, correct }] of Object.entries(question.nodes)) {
    const agents = here.flatMap((at, agent) => (at === Number(node) ? [agent] : []));
    svg.append(drawnNode(node, places[node], answer, correct, agents, show));
  }
  return svg;
}

function placed(nodes) {
  const places = {};
  let row = 0;
  const place = (node, depth) => {
    const children = Object.keys(nodes).filter((other) => nodes[other].parent === Number(node));
    places[node] = { x: depth * (WIDTH + GAP_X), y: row * (HEIGHT + GAP_Y) };
    children.forEach((child, at) => {
      if (at > 0) row += 1;
      place(child, depth + 1);
    });
  };
  for (const node of Object.keys(nodes).filter((each) => nodes[each].parent === null)) {
    place(node, 0);
    row += 1;
  }
  return places;
}

function edge(from, to, kind) {
  const right = to.x > from.x ? WIDTH : WIDTH / 2;
  const left = to.x > from.x ? 0 : WIDTH / 2;
  const ends = { x1: from.x + right, y1: from.y + HEIGHT / 2, x2: to.x + left, y2: to.y + HEIGHT / 2 };
  return make("line", { ...ends, class: kind });
}

function drawnNode(node, { x, y }, answer, correct, agents, show) {
  const label = shown(answer) + mark(correct);
  const short = label.length > 14 ? `${label.slice(0, 11)}…${mark(correct)}` : label;
  const verdict = correct === null ? "unknown" : correct ? "right" : "wrong";
  const group = make(
    "g",
    { transform: `translate(${x} ${y})`, class: `node ${verdict}`, tabindex: 0, role: "button" },
    make("title", {}, `solution ${node}: ${label}${agents.map((agent) => `, agent ${agent}`).join("")}`),
    make("rect", { width: WIDTH, height: HEIGHT, rx: 6 }),
    make("text", { x: 8, y: HEIGHT / 2 + 5 }, short),
  );
  agents.forEach((agent, at) => {
    const centre = { cx: WIDTH - 2 + 18 * at, cy: 4 };
    group.append(make("circle", { ...centre, r: 9 }), make("text", { x: centre.cx - 4, y: 9, class: "agent" }, `${agent}`));
  });
  group.addEventListener("click", () => show(node));
  group.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    show(node);
  });
  return group;
}

function toldSolution(question, node, names) {
  const { author, parent, text, answer, correct, confidence, features, tokens } = question.nodes[node];
  const origin = parent === null ? "a first answer" : `a refinement of solution ${parent}`;
  const rows = features.map((value, at) => make("tr", {}, make("th", {}, names[at]), make("td", {}, value.toFixed(3))));
  const facts = `Answer ${shown(answer)}${mark(correct)}, confidence ${confidence.toFixed(2)}, ${counted(tokens)}`;
  return [
    make("h4", {}, `Solution ${node}: by agent ${author}, ${origin}`),
    make("pre", { class: "written" }, text),
    make("p", {}, facts),
    make("details", {}, make("summary", {}, "Features"), make("table", {}, make("tbody", {}, ...rows))),
  ];
}

const runs = [...document.querySelectorAll("script.run")].map((script) => JSON.parse(script.textContent));
if (runs.length) {
  runs.forEach(({ name, policies }, run) =>
    policies.forEach((policy, at) => {
      byId("policy").append(make("option", { value: `${run} ${at}` }, runs.length > 1 ? `${name}: ${policy}` : policy));
    }),
  );
  byId("filter").append(...Object.keys(FILTERS).map((name) => make("option", { value: name }, name)));
  for (const id of ["policy", "filter"]) byId(id).addEventListener("change", listQuestions);
  byId("search").addEventListener("input", listQuestions);
  byId("questions").addEventListener("change", showDebate);
  const move = (by) => {
    const list = byId("questions");
    list.selectedIndex = Math.min(Math.max(list.selectedIndex + by, 0), list.length - 1);
    showDebate();
  };
  byId("previous").addEventListener("click", () => move(-1));
  byId("next").addEventListener("click", () => move(1));
  listQuestions();
}
