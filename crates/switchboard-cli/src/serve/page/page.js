// The page: keeps what the server tells of instances, and draws it when there is news, at most once a frame.
'use strict';

/** So many rows are listed until more are asked for: each costs time with each change. */
const AT_FIRST = 100;
/** So many changes are listed. */
const NEWS = 100;
/** Without a sign of life for so long, in ms, the connection is given up. The server sends one every ten seconds. */
const SILENCE = 30_000;
/** The longest time between two attempts to connect, in ms. */
const LONGEST = 15_000;
/** For so long it is said that the registry is heard again, in ms. */
const RECOVERED = 15_000;

const find = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
/** Sets what differs only: to write is to have the browser look at it again. */
const set = (element, name, value) => {
  if (element[name] !== value) element[name] = value;
};

const bar = find('bar'), state = find('state'), rows = find('rows'), filter = find('filter'), details = find('details');

// What is known.

/** By key, as the server tells them, with a key and the time they were told at. */
const instances = new Map();
let news = [];
let heard = false;
let registry = '';
let alone = null;
/** What is not heard: why, and since when. */
let outage = null;
/** When an outage ended, and how long it was. */
let recovery = null;
/** Since when there is no connection, and why, if that is known. */
let away = { since: Date.now(), why: null, first: true };

// What is chosen.

let service = null;
let selected = null;
let opened = null;
let limit = AT_FIRST;

const keyOf = (service, id) => service + '\n' + id;

function take(update) {
  const now = Date.now();
  if (update.whole) {
    instances.clear();
    news = [];
  }
  for (const [service, id] of update.gone) instances.delete(keyOf(service, id));
  for (const instance of update.instances) {
    instance.key = keyOf(instance.service, instance.id);
    instance.told = now;
    instance.text = textOf(instance);
    instances.set(instance.key, instance);
  }
  news = update.news.concat(news).slice(0, NEWS);
  ({ heard, registry, alone } = update);
  if (update.outage) {
    outage = { since: now - update.outage.for_seconds * 1000, why: update.outage.why };
    recovery = null;
  } else if (outage) {
    recovery = { at: now, lasted: now - outage.since };
    outage = null;
  }
  away = null;
  draw();
}

/** What the filter looks at. */
function textOf(instance) {
  const pairs = Object.entries(instance.metadata).map(([key, value]) => `${key}=${value}`);
  const { service, id, health, version, addresses, tags } = instance;
  return [service, id, health, version ?? '', addresses.join(), ...tags, ...pairs].join('\n').toLowerCase();
}

/** What is not picked first, then what is not passing. */
const rank = (instance) => (instance.not_picked ? 0 : instance.health === 'passing' ? 2 : 1);
const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

function wanted() {
  const text = filter.value.toLowerCase();
  const list = [];
  for (const instance of instances.values()) {
    if ((service === null || instance.service === service) && instance.text.includes(text)) list.push(instance);
  }
  return list.sort((a, b) => rank(a) - rank(b) || compare(a.service, b.service) || compare(a.id, b.id));
}

const several = (count, name) => `${count} ${name}${count === 1 ? '' : 's'}`;

function age(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 60) return `${seconds}s`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)}m` : `${Math.floor(seconds / 3600)}h`;
}

/** For how long at least a reason has been seen, or nothing. */
function seen(reason, instance) {
  if (reason.seen_for_seconds === undefined) return '';
  return ` for ${age(reason.seen_for_seconds * 1000 + Date.now() - instance.told)}+`;
}

/** Why it is not picked or not passing, in a line. */
function why(instance) {
  const [first, ...others] = instance.health_reasons ?? [];
  const parts = instance.not_picked ? [instance.not_picked] : [];
  if (first) {
    const said = (first.output || first.notes).trim().split('\n')[0];
    const more = others.length ? ` (and ${others.length} more)` : '';
    parts.push(`${first.check}${seen(first, instance)}: ${said}${more}`);
  }
  return parts.join('; ');
}

// How it looks.

let drawn = false;

/** Draws all, once before the next frame. */
function draw() {
  if (drawn) return;
  drawn = true;
  requestAnimationFrame(() => {
    drawn = false;
    drawAll();
  });
}

function drawAll() {
  const list = wanted();
  drawState();
  drawServices();
  drawRows(list);
  drawNews();
  drawDetails();
}

function drawState() {
  const [look, text, since] = stateNow();
  set(bar.dataset, 'look', look);
  set(state, 'textContent', text);
  // Not read out with each second.
  set(find('since'), 'textContent', since ? `For ${age(Date.now() - since)}.` : '');
  document.body.classList.toggle('old', Boolean(outage || (away && !away.first)));
  set(find('registry'), 'textContent', registry);
}

/** How all of it is heard: the look, the words, and since when if that counts. */
function stateNow() {
  const was = 'This is how it was.';
  if (away?.first) return away.why ? ['bad', away.why, away.since] : ['plain', 'Connecting.'];
  if (away) return ['bad', `${away.why ?? 'The connection to switchboard serve is lost; trying again.'} ${was}`, away.since];
  if (outage) {
    return ['bad', `The registry is not heard: ${outage.why}. ${heard ? was : 'Nothing is known yet.'}`, outage.since];
  }
  if (!heard) return ['plain', 'Listening to the registry.'];
  if (recovery && Date.now() - recovery.at < RECOVERED) {
    return ['good', `The registry is heard again, after ${age(recovery.lasted)}.`];
  }
  return alone ? ['doubtful', alone] : ['good', 'Live.'];
}

const serviceItems = new Map();

function drawServices() {
  const counts = new Map();
  let healthy = 0;
  for (const instance of instances.values()) {
    const count = counts.get(instance.service) ?? { all: 0, healthy: 0 };
    counts.set(instance.service, count);
    count.all += 1;
    if (instance.health === 'passing' || instance.health === 'warning') {
      count.healthy += 1;
      healthy += 1;
    }
  }
  // One that was chosen and is gone stays until another is chosen.
  if (service !== null && !counts.has(service)) counts.set(service, { all: 0, healthy: 0 });
  const told = `${several(counts.size, 'service')}, ${several(instances.size, 'instance')}, ${healthy} healthy`;
  set(find('counts'), 'textContent', told);
  const names = [...counts.keys()].sort(compare);
  order(find('services'), serviceItems, names, (name) => {
    const button = make('button', { type: 'button' }, make('span', { className: 'foreign', textContent: name }), make('span'));
    button.addEventListener('click', () => choose(service === name ? null : name));
    return make('li', {}, button);
  });
  for (const name of names) {
    const button = serviceItems.get(name).firstChild, count = counts.get(name);
    const look = count.healthy === 0 ? 'bad' : count.healthy < count.all ? 'doubtful' : 'plain';
    set(button.lastChild, 'textContent', `${count.healthy}/${count.all}`);
    set(button.lastChild, 'title', `${count.healthy} of ${count.all} healthy`);
    set(button.dataset, 'look', look);
    const pressed = String(service === name);
    if (button.getAttribute('aria-pressed') !== pressed) button.setAttribute('aria-pressed', pressed);
  }
}

const SIGNS = { passing: '✓', warning: '~', critical: '✗', maintenance: '⏸' };
const rowItems = new Map();

function drawRows(list) {
  const focused = rows.contains(document.activeElement);
  const before = selected && [...rowItems.keys()].indexOf(selected);
  const shown = list.slice(0, limit);
  order(rows, rowItems, shown.map((instance) => instance.key), (key) => {
    const cells = ['td', 'td', 'td', 'td', 'td', 'td'].map((tag) => make(tag));
    const button = make('button', { type: 'button', tabIndex: -1 });
    cells[2].append(button);
    const row = make('tr', {}, ...cells);
    row.addEventListener('click', () => {
      select(key);
      open(key);
    });
    return row;
  });
  for (const instance of shown) {
    const row = rowItems.get(instance.key);
    if (row.instance !== instance) fill(row, instance);
    if (row.instance.health_reasons || row.why) fillWhy(row);
  }
  // It stays at the top until somebody moves it; where the selected one has gone, the next takes its place.
  if (before === 0 && !focused && !details.open) selected = null;
  if (selected === null || !rowItems.has(selected)) {
    selected = shown[Math.min(Math.max(before ?? 0, 0), shown.length - 1)]?.key ?? null;
  }
  mark();
  if (focused && !rows.contains(document.activeElement) && !details.open) focusSelected();

  find('table').hidden = shown.length === 0;
  set(find('listed'), 'textContent', list.length === instances.size ? '' : `${list.length} of ${instances.size}`);
  const more = list.length - shown.length;
  find('more').hidden = more === 0;
  set(find('more'), 'textContent', `Show more (${more} are not listed)`);
  set(find('none'), 'textContent', nothing(list));
}

/** What is said in place of an empty list. */
function nothing(list) {
  if (list.length > 0 || (!heard && instances.size === 0)) return '';
  if (instances.size > 0) return service === null ? 'No instance has this in it.' : `No instance of ${service} has this in it.`;
  return 'No service is registered. `switchboard run web -- PROGRAM` registers one; `switchboard doctor` finds out why nothing shows up.';
}

function fill(row, instance) {
  row.instance = instance;
  const [health, service, id, address, version] = row.cells;
  set(health, 'textContent', `${SIGNS[instance.health]} ${instance.health}`);
  set(row.dataset, 'look', instance.not_picked ? 'bad' : instance.health === 'passing' ? 'plain' : 'doubtful');
  set(service, 'textContent', instance.service);
  set(id.firstChild, 'textContent', instance.id);
  const others = instance.addresses.length - 1;
  set(address, 'textContent', instance.addresses[0] + (others ? ` +${others}` : ''));
  set(version, 'textContent', instance.version ?? '');
  for (const cell of [service, id, address, version]) set(cell, 'title', cell.textContent);
  fillWhy(row);
}

function fillWhy(row) {
  const text = why(row.instance);
  row.why = text !== '';
  set(row.cells[5], 'textContent', text);
  set(row.cells[5], 'title', text);
}

/** Makes the children of `parent` those of `keys`, in this order, keeping what is there. */
function order(parent, items, keys, create) {
  const stay = new Set(keys);
  for (const [key, item] of items) {
    if (!stay.has(key)) item.remove();
  }
  const before = new Map(items);
  items.clear();
  let at = parent.firstChild;
  for (const key of keys) {
    const item = before.get(key) ?? create(key);
    items.set(key, item);
    if (item === at) at = at.nextSibling;
    else parent.insertBefore(item, at);
  }
}

const newsItems = new Map();

function drawNews() {
  order(find('news'), newsItems, news, ({ time, look, text }) => {
    const clock = new Date(time);
    const item = make('li', {}, make('time', { dateTime: time, textContent: clock.toLocaleTimeString() }), ' ', text);
    item.dataset.look = look;
    return item;
  });
}

function drawDetails() {
  if (!details.open) return;
  const instance = instances.get(opened);
  const fields = [];
  const add = (name, value) => value !== '' && fields.push([name, String(value)]);
  if (!instance) {
    add('Health', 'gone');
  } else {
    add('Health', instance.health);
    add('Picked', instance.not_picked ? `no: ${instance.not_picked}` : 'yes');
    for (const reason of instance.health_reasons ?? []) {
      add(reason.check, `${reason.health}${seen(reason, instance)}\n${[reason.output, reason.notes].join('\n')}`.trim());
    }
    for (const address of instance.addresses) add('Address', address);
    add('Version', instance.version ?? '');
    add('Weight', instance.weight + (instance.warning_weight === undefined ? '' : `, ${instance.warning_weight} while warning`));
    add('Tags', instance.tags.join(', '));
    for (const [key, value] of Object.entries(instance.metadata)) add(key, value);
    add('Endpoints', instance.endpoints.map((endpoint) => endpoint.name).join(', '));
  }
  set(find('details-head'), 'textContent', opened.replace('\n', '/'));
  // Rewritten only where it differs, so that text stays selected.
  const told = JSON.stringify(fields);
  if (details.told === told) return;
  details.told = told;
  find('fields').replaceChildren(
    ...fields.flatMap(([name, value]) => [make('dt', { className: 'foreign', textContent: name }), make('dd', { className: 'foreign', textContent: value })]),
  );
}

// What is done.

function choose(name) {
  service = name;
  limit = AT_FIRST;
  draw();
}

function select(key) {
  selected = key;
  mark();
}

/** One row of the list is reached by Tab, the others from there by arrows. */
function mark() {
  for (const [key, row] of rowItems) {
    const is = key === selected;
    row.classList.toggle('selected', is);
    set(row.cells[2].firstChild, 'tabIndex', is ? 0 : -1);
  }
}

function focusSelected() {
  rowItems.get(selected)?.cells[2].firstChild.focus();
}

function move(lines) {
  const keys = [...rowItems.keys()];
  if (keys.length === 0) return;
  const to = Math.min(Math.max(keys.indexOf(selected) + lines, 0), keys.length - 1);
  select(keys[to]);
  focusSelected();
}

function open(key) {
  opened = key;
  if (!details.open) details.showModal();
  drawDetails();
}

// The browser gives the focus back, unless what had it is gone.
details.addEventListener('close', () => {
  if (document.activeElement === document.body) focusSelected();
});
filter.addEventListener('input', () => {
  limit = AT_FIRST;
  draw();
});
find('more').addEventListener('click', () => {
  limit *= 4;
  draw();
});

const MOVES = { ArrowDown: 1, ArrowUp: -1, PageDown: 20, PageUp: -20, Home: -Infinity, End: Infinity };

document.addEventListener('keydown', (event) => {
  if (details.open || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target === filter;
  const elsewhere = event.target.closest('#services, #news, #more, a');
  if (event.key === '/' && !typing) {
    filter.focus();
    filter.select();
  } else if (typing && (event.key === 'Enter' || event.key === 'ArrowDown')) {
    focusSelected();
  } else if (typing && event.key === 'Escape' && filter.value === '') {
    filter.blur();
  } else if (!typing && event.key === 'Escape' && (filter.value !== '' || service !== null)) {
    filter.value = '';
    choose(null);
  } else if (!typing && !elsewhere && event.key in MOVES) {
    // The first key goes to the row that is marked.
    move(rows.contains(document.activeElement) ? MOVES[event.key] : 0);
  } else if (event.target.closest('#services') && (event.key === 'ArrowDown' || event.key === 'ArrowUp')) {
    const item = event.target.closest('li');
    (event.key === 'ArrowDown' ? item.nextSibling : item.previousSibling)?.firstChild.focus();
  } else {
    return;
  }
  event.preventDefault();
});

// The connection.

let source = null;
let alive = 0;
let attempts = 0;
let retry = 0;

function connect() {
  clearTimeout(retry);
  alive = Date.now();
  const opening = (source = new EventSource('events'));
  opening.addEventListener('state', (event) => {
    alive = Date.now();
    attempts = 0;
    take(JSON.parse(event.data));
  });
  opening.addEventListener('alive', () => (alive = Date.now()));
  opening.addEventListener('end', () => lose('switchboard serve has ended; trying whether it is back.'));
  opening.addEventListener('error', async () => {
    opening.close();
    const why = await ask();
    if (opening === source) lose(why);
  });
}

/** Why there are no events, if the server tells. */
async function ask() {
  try {
    const { status } = await fetch('events', { method: 'HEAD' });
    if (status === 401) return 'The server asks for its token: open the address that it printed.';
    if (status === 503) return 'Too many pages are open; trying again.';
  } catch {
    // It cannot be reached.
  }
  return null;
}

function disconnect() {
  source?.close();
  source = null;
  clearTimeout(retry);
}

function lose(why) {
  disconnect();
  away = { since: away?.since ?? Date.now(), why, first: away?.first ?? false };
  if (away.first && !why) away.why = 'switchboard serve cannot be reached; trying again.';
  // Some sooner and some later: they may have lost it together.
  const longest = Math.min(1000 * 2 ** attempts++, LONGEST);
  retry = setTimeout(connect, longest * (0.5 + Math.random() / 2));
  draw();
}

// A page that nobody looks at keeps no connection: a browser has six for all pages of a server. What happened meanwhile is told
// to it then.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) disconnect();
  else connect();
});

setInterval(() => {
  if (source && Date.now() - alive > SILENCE) lose(null);
  draw();
}, 1000);

if (!document.hidden) connect();
