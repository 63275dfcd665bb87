// Charts: functions from numbers to SVG. Nothing here knows the page or its state.

const SVG = 'http://www.w3.org/2000/svg';
const LEFT = 64, RIGHT = 10;

/** An element of SVG with attributes and children. */
function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Three significant digits in the largest unit that keeps the number at 1 or above. */
function scaled(value, step, units) {
  if (value === null || value === undefined) return '-';
  let unit = 0;
  while (unit < units.length - 1 && value >= step * 0.9995) { value /= step; unit += 1; }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return value.toFixed(digits) + units[unit];
}
const duration = (ns) => scaled(ns, 1000, ['ns', 'µs', 'ms', 's']);
const amount = (n) => (n !== null && n < 100000 ? String(n) : scaled(n, 1000, ['', 'k', 'M', 'G', 'T']));

/** What charts of one width share: where columns of time are. */
function timeAxis(times, width) {
  const start = Date.parse(times.start), step = times.step_ns / 1e6;
  const column = (width - LEFT - RIGHT) / times.count;
  const end = start + step * times.count;
  return {
    width, start, step, end, column, times,
    x: (at) => LEFT + at * column,
    of: (ms) => LEFT + Math.min(Math.max((ms - start) / step, 0), times.count) * column,
    at: (x) => Math.min(Math.max(Math.floor((x - LEFT) / column), 0), times.count - 1),
    label: (at) => moment(start + at * step, step, end - start),
  };
}

/** A time of day in UTC, with its date where columns are hours or all of them span a day; where columns are days, the date. */
function moment(ms, step, span) {
  const text = new Date(ms).toISOString();
  if (step >= 86400000) return text.slice(0, 10);
  if (step >= 3600000 || span >= 86400000) return text.slice(5, 16).replace('T', ' ');
  return step < 1000 ? text.slice(11, 21) : text.slice(11, 19);
}

/** The ground of a chart over time: what was not recorded, and labels below where they are wanted. */
function ground(axis, height, labelled) {
  const group = svg('g');
  let path = '';
  axis.times.recorded_ms.forEach((ms, at) => {
    if (ms === 0) path += `M${axis.x(at).toFixed(1)} 0h${axis.column.toFixed(2)}v${height}h-${axis.column.toFixed(2)}z`;
  });
  group.append(svg('path', { class: 'unrecorded', d: path }));
  if (labelled) {
    const every = Math.max(1, Math.ceil(90 / axis.column));
    for (let at = 0; at < axis.times.count; at += every) {
      if (axis.x(at) + 70 > axis.width) break;
      group.append(svg('text', { x: axis.x(at), y: height + 13 }, axis.label(at)));
    }
  }
  return group;
}

/** A logarithmic axis from top to bottom for values in nanoseconds. */
function valueAxis(least, most, height) {
  const low = Math.log(Math.max(1, least)), high = Math.log(Math.max(most, least * 2, 2));
  const y = (ns) => 4 + (height - 8) * (1 - (Math.log(Math.max(1, ns)) - low) / (high - low || 1));
  return { y, low: Math.exp(low), high: Math.exp(high) };
}

/** Lines and labels at powers of ten, or of two where few of those are in range. */
function valueGrid(axis, width) {
  const group = svg('g'), marks = [];
  const wide = axis.high / axis.low > 300;
  for (let decade = 1; decade <= 1e13; decade *= 10) {
    for (const part of wide ? [1] : [1, 2, 5]) marks.push(decade * part);
  }
  for (const ns of marks.filter((ns) => ns >= axis.low && ns <= axis.high)) {
    const y = axis.y(ns).toFixed(1);
    group.append(svg('line', { class: 'grid', x1: LEFT, x2: width - RIGHT, y1: y, y2: y }));
    group.append(svg('text', { x: LEFT - 6, y: Number(y) + 4, 'text-anchor': 'end' }, duration(ns)));
  }
  return group;
}

/** A chart's frame, which says in words what is drawn. */
function frame(width, height, label) {
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label });
}

/** A path that is level within each column, from `low` up to `high`; where one is null there is none. */
function steps(axis, y, low, high) {
  let path = '';
  for (let at = 0; at < high.length;) {
    if (high[at] === null || low[at] === null) { at += 1; continue; }
    let end = at, top = '', bottom = '';
    for (; end < high.length && high[end] !== null && low[end] !== null; end += 1) {
      const [from, to] = [axis.x(end).toFixed(1), axis.x(end + 1).toFixed(1)];
      top += `${top ? 'L' : 'M'}${from} ${y(high[end]).toFixed(1)}H${to}`;
      bottom = `L${to} ${y(low[end]).toFixed(1)}H${from}` + bottom;
    }
    path += high === low ? top : `${top}${bottom}z`;
    at = end;
  }
  return path;
}

/** Percentiles by time: the bands from the median to the 90th and on to the 99th, the median, the largest. */
function latencyChart(axis, series, height = 190) {
  const chart = frame(axis.width, height + 18, 'latency over time: median, 90th and 99th percentile, largest');
  const known = (values) => values.filter((value) => value !== null);
  const least = Math.min(...known(series.p50_ns)), most = Math.max(...known(series.max_ns));
  const scale = valueAxis(least / 1.3, most * 1.1, height);
  const path = (name, low, high) => chart.append(svg('path', { class: name, d: steps(axis, scale.y, low, high) }));
  chart.append(ground(axis, height, true), valueGrid(scale, axis.width));
  path('wideband', series.p90_ns, series.p99_ns);
  path('band', series.p50_ns, series.p90_ns);
  path('max', series.max_ns, series.max_ns);
  path('p99', series.p99_ns, series.p99_ns);
  path('median', series.p50_ns, series.p50_ns);
  return chart;
}

/** The lower end of a quarter of a power of two: histograms have 128 buckets in each half of their first 256. */
function quarterStart(quarter) {
  const bucket = quarter * 32;
  if (bucket < 256) return bucket;
  const octave = Math.floor(bucket / 128);
  return (bucket % 128 + 128) * 2 ** (octave - 1);
}

/** Samples by time and value: the darker the more. */
function heatChart(axis, heat, height = 170) {
  let least = Infinity, most = 0, fullest = 1;
  for (const cells of heat) {
    for (let at = 0; at < cells.length; at += 2) {
      least = Math.min(least, cells[at]);
      most = Math.max(most, cells[at]);
      fullest = Math.max(fullest, cells[at + 1]);
    }
  }
  const chart = frame(axis.width, height + 18, 'heat map: samples by time and latency');
  if (least > most) return chart;
  const scale = valueAxis(quarterStart(least), quarterStart(most + 1), height);
  const paths = Array.from({ length: 8 }, () => '');
  heat.forEach((cells, column) => {
    for (let at = 0; at < cells.length; at += 2) {
      const top = scale.y(quarterStart(cells[at] + 1)), bottom = scale.y(quarterStart(cells[at]));
      const level = Math.floor(7.99 * Math.log1p(cells[at + 1]) / Math.log1p(fullest));
      const width = axis.column.toFixed(2);
      paths[level] += `M${axis.x(column).toFixed(1)} ${top.toFixed(1)}h${width}V${bottom.toFixed(1)}h-${width}z`;
    }
  });
  chart.append(ground(axis, height, true));
  paths.forEach((d, level) => chart.append(svg('path', { class: 'heat', opacity: (0.12 + level * 0.125).toFixed(2), d })));
  chart.append(valueGrid(scale, axis.width));
  return chart;
}

/** Counts by time as bars. */
function countChart(axis, values, name, height = 54) {
  const most = Math.max(1, ...values);
  const chart = frame(axis.width, height + 4, `${name} over time, at most ${most} in a column`);
  let path = '';
  values.forEach((n, at) => {
    if (!n) return;
    const tall = Math.max(2, (height - 4) * n / most), width = Math.max(1, axis.column - 0.5).toFixed(2);
    path += `M${axis.x(at).toFixed(1)} ${height}v-${tall.toFixed(1)}h${width}v${tall.toFixed(1)}z`;
  });
  chart.append(ground(axis, height, false));
  chart.append(svg('text', { x: LEFT - 6, y: 12, 'text-anchor': 'end' }, amount(most)));
  chart.append(svg('line', { class: 'grid', x1: LEFT, x2: axis.width - RIGHT, y1: height, y2: height }));
  chart.append(svg('path', { class: name === 'retransmits' || name === 'drops' ? 'bar loss' : 'bar', d: path }));
  return chart;
}

/** Findings by time: one line each, as long as it held. `open` is called with the number of one that is clicked. */
function findingChart(axis, findings, open) {
  const line = 18, chart = frame(axis.width, findings.length * line + 4, `${findings.length} findings by time`);
  chart.append(ground(axis, findings.length * line, false));
  findings.forEach(({ finding, number }, at) => {
    const from = axis.of(Date.parse(finding.start)), to = Math.max(axis.of(Date.parse(finding.end)), from + 3);
    const group = svg('g');
    group.append(svg('rect', { class: finding.severity, x: from, y: at * line + 4, width: to - from, height: 10, rx: 2 }));
    const text = `${finding.id} ${finding.scope.name}`.slice(0, 60), wide = text.length * 6.5;
    const [x, anchor, name] = to + wide < axis.width ? [to + 4, 'start', '']
      : from - wide > LEFT ? [from - 4, 'end', ''] : [from + 4, 'start', 'inside'];
    group.append(svg('text', { x, y: at * line + 13, 'text-anchor': anchor, class: name }, text));
    group.addEventListener('click', () => open(number));
    chart.append(group);
  });
  return chart;
}

/** Percentile curves, the part that is above on a logarithmic axis: one is of everything, one of what is chosen. */
function curveChart(width, curves, height = 220) {
  const all = curves.flatMap(({ curve }) => curve);
  const chart = frame(width, height + 18, 'latency by percentile');
  if (all.length === 0) return chart;
  const inner = all.filter(([part]) => part < 1).map(([part]) => 1 / (1 - part));
  const far = Math.log10(Math.max(100, ...inner) * 1.5);
  const x = (part) => LEFT + (width - LEFT - RIGHT) * Math.min(1, part >= 1 ? 1 : Math.log10(1 / (1 - part)) / far);
  const values = all.map(([, ns]) => ns);
  const scale = valueAxis(Math.min(...values) / 1.2, Math.max(...values) * 1.1, height);
  chart.append(valueGrid(scale, width));
  for (const part of [0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]) {
    if (part > 0 && x(part) > width - RIGHT - 20) break;
    const at = x(part).toFixed(1);
    chart.append(svg('line', { class: 'grid', x1: at, x2: at, y1: 4, y2: height }));
    chart.append(svg('text', { x: at, y: height + 13, 'text-anchor': part ? 'middle' : 'start' }, `p${Number((part * 100).toFixed(6))}`));
  }
  for (const { curve, name } of curves) {
    const d = curve.map(([part, ns], at) => `${at ? 'L' : 'M'}${x(part).toFixed(1)} ${scale.y(ns).toFixed(1)}`).join('');
    chart.append(svg('path', { class: name, d }));
  }
  return chart;
}
