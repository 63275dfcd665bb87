// Tables and lists: functions from what is told to elements. Text of others goes into text nodes alone.

/** An element with properties and children. */
function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key === 'class') element.className = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** The sum of a count, over its keys where it is a group; null where it is unknown. */
function total(counts, name) {
  const value = counts[name];
  if (value === null || value === undefined || typeof value === 'number') return value ?? null;
  const known = Object.values(value).filter((n) => n !== null);
  return known.length > 0 || Object.keys(value).length === 0 ? known.reduce((sum, n) => sum + n, 0) : null;
}

/** `10.0.0.1:443`. */
function endpoint({ ip, port }) {
  if (ip === null) return '-';
  const shown = ip.includes(':') && port !== null ? `[${ip}]` : ip;
  return port === null ? shown : `${shown}:${port}`;
}

/** What the columns of a table of rows are: heading, value, how it is shown. */
function columnsOf(metric, counted) {
  const of = (key) => (row) => row.metrics[metric]?.[key] ?? null;
  return [
    ['name', (row) => row.name ?? '-', String],
    ['flows', (row) => row.flows, amount],
    ['n', of('count'), amount],
    ...['p50', 'p90', 'p99', 'p999', 'max'].map((key) => [key, of(`${key}_ns`), duration]),
    ...counted.map((name) => [name, (row) => total(row.counts, name), amount]),
  ];
}

/** Rows in an order: numbers largest first, unknown ones last. */
function sorted(rows, value, descending) {
  const sign = descending ? -1 : 1;
  return [...rows].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === b) return 0;
    if (a === null) return 1;
    if (b === null) return -1;
    return a < b ? -sign : sign;
  });
}

/** A table of rows. `order` is a heading and a direction; `sort` and `choose` are called for what is clicked. */
function rowTable(rows, other, { metric, counted, order, chosen, sort, choose }) {
  const columns = columnsOf(metric, counted);
  const head = columns.map(([title]) => {
    const is = title === order.title;
    return el('th', { scope: 'col', 'aria-sort': is ? (order.descending ? 'descending' : 'ascending') : 'none' },
      el('button', { type: 'button', onclick: () => sort(title) }, title));
  });
  const [, value] = columns.find(([title]) => title === order.title) ?? columns[0];
  const body = sorted(rows, value, order.descending).map((row) => {
    const button = el('button', { type: 'button', class: 'name', 'aria-pressed': String(row === chosen), onclick: () => choose(row) },
      row.name ?? '-');
    const cells = columns.slice(1).map(([, of, show]) => el('td', {}, show(of(row))));
    return el('tr', { class: row === chosen ? 'chosen' : '' }, el('td', {}, button), ...cells);
  });
  if (other) {
    const cells = columns.slice(1).map(([title, of, show]) => el('td', { class: 'faint' }, title === 'flows' ? '' : show(of(other))));
    body.push(el('tr', {}, el('td', { class: 'faint' }, 'other'), ...cells));
  }
  return el('table', {}, el('thead', {}, el('tr', {}, ...head)), el('tbody', {}, ...body));
}

/** A plain table of texts. */
function plainTable(heading, rows) {
  const cells = (kind, row) => row.map((text) => el(kind, kind === 'th' ? { scope: 'col' } : {}, text));
  return el('table', {}, el('thead', {}, el('tr', {}, ...cells('th', heading))),
    el('tbody', {}, ...rows.map((row) => el('tr', {}, ...cells('td', row)))));
}

/** Who recorded what. */
function nodeTable(nodes) {
  const rows = nodes.map((node) => [
    node.name, node.kernel, node.start.slice(0, 19) + 'Z', duration(node.recorded_s * 1e9), amount(node.intervals),
    amount(node.runs), node.gaps ? `${node.gaps} of ${duration(node.gap_s * 1e9)}` : '0', amount(node.lost), node.complete ? 'yes' : 'no',
  ]);
  return plainTable(['node', 'kernel', 'from', 'recorded', 'intervals', 'runs', 'gaps', 'samples lost', 'complete'], rows);
}

const UNITS = { ns: (v) => duration(v), s: (v) => duration(v * 1e9), ratio: (v) => `${Number((v * 100).toPrecision(2))} %`,
  times: (v) => `${v.toFixed(1)} times`, bytes: (v) => scaled(v, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB']),
  bytes_per_second: (v) => `${scaled(v, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB'])}/s`, count: (v) => amount(Math.round(v)),
  per_second: (v) => `${v < 10 ? v.toFixed(1) : amount(Math.round(v))}/s` };

/** A value with its unit. */
const valued = (value, unit) => (UNITS[unit] ?? String)(value);

/** A time with its date, to the second. */
const second = (time) => time.slice(0, 19).replace('T', ' ');

/** A finding that opens. */
function findingDetails({ node, ...finding }, number) {
  const texts = (title, all) => (all.length === 0 ? null : el('li', {}, `${title}: `, el('ul', {}, ...all.map((text) => el('li', {}, text)))));
  const evidence = finding.evidence.map((one) => `${one.metric} ${valued(one.value, one.unit)}`
    + (one.threshold === null ? '' : ` (threshold ${valued(one.threshold, one.unit)})`));
  const commands = finding.commands.map((command) => el('code', {}, command));
  return el('details', { id: `finding-${number}` },
    el('summary', {}, el('span', { class: `severity ${finding.severity}` }, finding.severity),
      ` ${finding.id} on ${node}, ${finding.scope.kind} ${finding.scope.name}: ${finding.title} `,
      el('span', { class: 'faint' }, `${second(finding.start)} to ${second(finding.end)}`)),
    el('ul', {}, el('li', {}, `why: ${finding.explanation}`), texts('evidence', evidence), texts('ruled out', finding.ruled_out),
      texts('not seen', finding.not_observable), texts('caused by', finding.caused_by), texts('do', finding.advice), texts('run', commands)));
}

/** Both ends of a conversation side by side. */
function conversationDetails(one, metrics) {
  const [a, b] = one.ends;
  const title = (end) => `${end.owner.comm ?? '-'} ${endpoint(end.local)} on ${end.node}`;
  const rows = metrics.filter((metric) => a.metrics[metric] || b.metrics[metric]).flatMap((metric) => ['p50', 'p99', 'max'].map((key) => [
    `${metric} ${key}`, ...[a, b].map((end) => duration(end.metrics[metric]?.[`${key}_ns`] ?? null))]));
  rows.push(['rtt min', duration(a.rtt_min_ns), duration(b.rtt_min_ns)]);
  for (const name of ['bytes_sent', 'bytes_received', 'segments_sent', 'segments_received', 'retransmits', 'dsacks', 'drops', 'resets_received']) {
    rows.push([name.replaceAll('_', ' '), amount(total(a.counts, name)), amount(total(b.counts, name))]);
  }
  const ways = one.ways.map((way) => el('p', {}, `${way.from} → ${way.to}: ${amount(way.segments_sent)} segments left, ${amount(way.segments_received)} arrived; ${amount(way.retransmits)} were sent again, ${amount(way.spurious)} of them for nothing. `,
    el('span', { class: 'lost' }, `Loss: ${way.lost_where}.`)));
  const lost = one.ways.reduce((sum, way) => sum + (way.retransmits ?? 0), 0);
  return el('details', {},
    el('summary', {}, `${title(a)} ⇄ ${title(b)}`, one.translated ? ' (translated)' : '', el('span', { class: 'faint' }, ` ${amount(lost)} segments sent again`)),
    ...ways, el('div', { class: 'wide' }, plainTable(['', title(a), title(b)], rows)));
}
