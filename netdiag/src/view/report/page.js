// The page: its state, what it shows of it, and how one moves in it.

const data = JSON.parse(document.getElementById('data').textContent);
const report = data.report;
const place = (id) => document.getElementById(id);

/** What is looked at; the part behind `#` of the address has it, too. */
const asked = new URLSearchParams(location.hash.slice(1));
const metrics = Object.keys(report.all.metrics);
const state = {
  by: Math.max(0, report.by.findIndex((grouped) => grouped.by === asked.get('by'))),
  metric: metrics.includes(asked.get('metric')) ? asked.get('metric') : report.metric ?? metrics[0] ?? '',
  search: asked.get('search') ?? '',
  theme: asked.get('theme') ?? '',
  order: { title: 'p99', descending: true },
  row: null,
  column: null,
};
state.row = asked.has('row') ? report.by[state.by]?.rows.find((row) => (row.name ?? '') === asked.get('row')) ?? null : null;

/** Writes what is looked at behind the `#`, so that the address can be handed on. */
function remember() {
  const kept = new URLSearchParams();
  if (report.by.length > 0) kept.set('by', report.by[state.by].by);
  if (state.metric) kept.set('metric', state.metric);
  if (state.row) kept.set('row', state.row.name ?? '');
  if (state.search) kept.set('search', state.search);
  if (state.theme) kept.set('theme', state.theme);
  try { history.replaceState(null, '', `#${kept}`); } catch { /* an address that cannot be changed */ }
}

/** Whether a text is searched for. */
const isFound = (text) => text.toLowerCase().includes(state.search.toLowerCase());

/** What is shown over time: the chosen row, else everything; with what only the page has of it. */
function shown() {
  const rows = report.by[state.by]?.rows ?? [];
  const at = state.row ? rows.indexOf(state.row) : -1;
  return at < 0 ? { row: report.all, extras: data.all } : { row: state.row, extras: data.by[state.by][at] };
}

function figure(caption, chart) {
  return el('figure', {}, el('figcaption', {}, caption), chart);
}

function drawAbout() {
  const step = duration(report.columns.step_ns);
  place('span').textContent = `${report.start.slice(0, 19)}Z to ${report.end.slice(0, 19)}Z, columns of ${step}${report.filtered ? ', filtered' : ''}`;
  place('about').replaceChildren(el('div', { class: 'wide' }, nodeTable(report.nodes)), ...report.notes.map((note) => el('p', { class: 'note' }, note)));
}

function drawCharts() {
  const { row, extras } = shown(), course = row.over_time, series = course.metrics[state.metric];
  const axis = timeAxis(report.columns, Math.max(320, place('charts').clientWidth));
  const charts = [];
  if (series) charts.push(figure(`${state.metric}: median, bands to the 90th and 99th percentile, dotted the largest`, latencyChart(axis, series)));
  else charts.push(el('p', { class: 'faint' }, `no samples of ${state.metric}`));
  const heat = extras[state.metric]?.heat;
  if (heat) charts.push(figure(`${state.metric}: how many samples took how long`, heatChart(axis, heat)));
  else if (series) charts.push(el('p', { class: 'faint' }, 'no heat map: the page would be too large; report with a smaller --top'));
  const none = [];
  for (const name of report.counted) {
    const values = course.counts[name] ?? [];
    const sum = values.reduce((all, n) => all + (n ?? 0), 0);
    if (sum > 0) charts.push(figure(`${name}: ${amount(sum)}`, countChart(axis, values, name)));
    else none.push(values.some((n) => n !== null) ? `${name} 0` : `${name} unknown`);
  }
  if (none.length > 0) charts.push(el('p', { class: 'faint' }, none.join(', ')));
  const findings = report.findings.map((finding, number) => ({ finding, number })).filter(({ finding }) => isFound(textOf(finding)));
  if (findings.length > 0) charts.push(figure('findings', findingChart(axis, findings.slice(0, 20), openFinding)));
  place('charts').replaceChildren(...charts);
  place('shown').textContent = state.row ? state.row.name ?? '-' : 'everything';
  place('everything').hidden = !state.row;
  drawCursor(axis);
}

/** The line at a column in every chart, and in words what is there. */
function drawCursor(axis = timeAxis(report.columns, Math.max(320, place('charts').clientWidth))) {
  for (const old of document.querySelectorAll('#charts .cursor')) old.remove();
  const at = state.column, { row } = shown();
  if (at === null) { place('readout').textContent = ''; return; }
  const x = (axis.x(at) + axis.column / 2).toFixed(1);
  for (const chart of document.querySelectorAll('#charts svg')) {
    chart.append(svg('line', { class: 'cursor', x1: x, x2: x, y1: 0, y2: chart.viewBox.baseVal.height }));
  }
  const series = row.over_time.metrics[state.metric];
  const told = series ? [`n ${amount(series.count[at])}`, ...['p50', 'p90', 'p99', 'p999', 'max'].map((key) => `${key} ${duration(series[`${key}_ns`][at])}`)] : [];
  const counts = report.counted.map((name) => `${name} ${amount(row.over_time.counts[name]?.[at] ?? null)}`);
  place('readout').textContent = [axis.label(at), ...(report.columns.recorded_ms[at] ? [...told, ...counts] : ['nothing was recorded'])].join('  ·  ');
}

function drawCurve() {
  const { extras } = shown();
  const curves = [{ curve: data.all[state.metric]?.curve ?? [], name: state.row ? 'everything' : 'median' }];
  if (state.row) curves.push({ curve: extras[state.metric]?.curve ?? [], name: 'median' });
  const caption = state.row ? `${state.metric} of ${state.row.name ?? '-'}, dashed of everything` : `${state.metric} of everything`;
  place('curve').replaceChildren(figure(caption, curveChart(Math.max(320, place('curve').clientWidth), curves)));
}

function drawGroups() {
  const grouped = report.by[state.by];
  if (!grouped) return;
  const rows = grouped.rows.filter((row) => isFound(row.name ?? '-'));
  const folded = grouped.folded > 0 ? `; ${amount(grouped.folded)} more have no row, and are in other` : '';
  place('folded').textContent = `${rows.length} of ${grouped.rows.length} rows by ${grouped.by}${folded}`;
  const other = state.search ? null : grouped.other;
  place('groups').replaceChildren(rowTable(rows, other, {
    metric: state.metric, counted: report.counted, order: state.order, chosen: state.row,
    sort(title) {
      state.order = { title, descending: state.order.title === title ? !state.order.descending : title !== 'name' };
      drawGroups();
      [...document.querySelectorAll('#groups th button')].find((button) => button.textContent === title)?.focus();
    },
    choose(row) { choose(state.row === row ? null : row); },
  }));
}

/** Shows a row over time, null for everything. */
function choose(row) {
  const name = document.activeElement?.classList.contains('name') ? document.activeElement.textContent : null;
  state.row = row;
  remember();
  drawCharts();
  drawCurve();
  drawGroups();
  if (name !== null) [...document.querySelectorAll('#groups .name')].find((button) => button.textContent === name)?.focus();
}

const textOf = (finding) => `${finding.severity} ${finding.id} ${finding.node} ${finding.scope.name} ${finding.title}`;

function drawFindings() {
  const found = report.findings.map((finding, number) => [finding, number]).filter(([finding]) => isFound(textOf(finding)));
  const left = Object.entries(report.findings_left_out).map(([id, n]) => `${amount(n)} more of ${id}`);
  const none = report.findings.length === 0 ? 'nothing is wrong as far as could be seen' : 'none is searched for';
  place('findings').replaceChildren(...found.map(([finding, number]) => findingDetails(finding, number)),
    ...(found.length === 0 ? [el('p', { class: 'faint' }, none)] : []), ...(left.length > 0 ? [el('p', { class: 'faint' }, left.join(', '))] : []),
    ...report.nodes.flatMap((node) => node.withheld.map((it) => el('p', { class: 'faint' }, `withheld ${it.id} on ${node.name}: ${it.reason}`))));
}

function openFinding(number) {
  const details = place(`finding-${number}`);
  details.open = true;
  details.scrollIntoView({ block: 'center' });
  details.firstChild.focus();
}

function drawConversations() {
  place('conversations-section').hidden = report.conversations.length === 0;
  const text = (one) => one.ends.map((end) => `${end.node} ${end.owner.comm ?? ''} ${endpoint(end.local)} ${endpoint(end.peer)}`).join(' ');
  const found = report.conversations.filter((one) => isFound(text(one)));
  place('conversations').replaceChildren(...found.map((one, at) => {
    const details = conversationDetails(one, metrics);
    details.open = at === 0;
    return details;
  }), ...(found.length === 0 ? [el('p', { class: 'faint' }, 'none is searched for')] : []));
}

function drawTheme() {
  if (state.theme) document.documentElement.dataset.theme = state.theme;
  else delete document.documentElement.dataset.theme;
  place('theme').textContent = `theme: ${state.theme || 'auto'}`;
}

function options(select, names, value) {
  select.replaceChildren(...names.map((name) => el('option', { value: name }, name)));
  select.value = value;
}

function draw() {
  place('help').textContent = data.help[state.metric] ?? '';
  drawCharts();
  drawCurve();
  drawGroups();
}

/** What a search narrows. */
function search(text) {
  state.search = text;
  remember();
  drawCharts();
  drawGroups();
  drawFindings();
  drawConversations();
}

/** Moves the focus among the names of rows. */
function moveRow(by) {
  const names = [...document.querySelectorAll('#groups .name')];
  const at = names.indexOf(document.activeElement);
  names[Math.min(Math.max(at + by, 0), names.length - 1)]?.focus();
}

function key(event) {
  const typing = document.activeElement === place('search');
  if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    place('search').focus();
    place('search').select();
  } else if (event.key === 'Escape') {
    if (typing) { place('search').value = ''; search(''); place('search').blur(); }
    else if (state.column !== null) { state.column = null; drawCursor(); }
    else if (state.row) choose(null);
  } else if (['ArrowDown', 'ArrowUp'].includes(event.key) && (typing || document.activeElement.classList.contains('name'))) {
    event.preventDefault();
    moveRow(event.key === 'ArrowDown' ? 1 : -1);
  } else if (['ArrowLeft', 'ArrowRight', 'Home', 'End'].includes(event.key) && document.activeElement === place('charts')) {
    event.preventDefault();
    const last = report.columns.count - 1, at = state.column ?? (event.key === 'ArrowLeft' ? last + 1 : -1);
    state.column = { ArrowLeft: Math.max(at - 1, 0), ArrowRight: Math.min(at + 1, last), Home: 0, End: last }[event.key];
    drawCursor();
  }
}

function listen() {
  place('by').addEventListener('change', (event) => {
    state.by = report.by.findIndex((grouped) => grouped.by === event.target.value);
    state.row = null;
    remember();
    draw();
  });
  place('metric').addEventListener('change', (event) => { state.metric = event.target.value; remember(); draw(); });
  place('search').addEventListener('input', (event) => search(event.target.value));
  place('everything').addEventListener('click', () => choose(null));
  place('theme').addEventListener('click', () => {
    state.theme = { '': 'dark', dark: 'light', light: '' }[state.theme] ?? '';
    remember();
    drawTheme();
  });
  place('charts').addEventListener('pointermove', (event) => {
    const chart = event.target.closest('svg');
    if (!chart) return;
    const box = chart.getBoundingClientRect(), axis = timeAxis(report.columns, chart.viewBox.baseVal.width);
    state.column = axis.at((event.clientX - box.left) / box.width * axis.width);
    drawCursor(axis);
  });
  place('charts').addEventListener('pointerleave', () => { state.column = null; drawCursor(); });
  document.addEventListener('keydown', key);
  window.addEventListener('resize', () => { drawCharts(); drawCurve(); });
  window.addEventListener('beforeprint', () => document.querySelectorAll('details').forEach((details) => { details.open = true; }));
}

options(place('by'), report.by.map((grouped) => grouped.by), report.by[state.by]?.by);
options(place('metric'), metrics, state.metric);
place('search').value = state.search;
drawTheme();
drawAbout();
draw();
drawFindings();
drawConversations();
listen();
