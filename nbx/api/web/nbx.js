/* nbx in a page: decides, renders, reports. Nothing inline, no HTML from strings, no eval. Reference: docs/web.md
   <script src="https://nbx.example/nbx.js" data-key="nbx_…" async></script>     a key with the scope web
   <div data-nbx-placement="web_home_hero" data-nbx-customer="c-17"></div>       filled by itself
   nbx.decide({placement, customer, slots, context, exclude, into, render, timeout, ttl, fallback, label})
     → Promise of slots, never rejects. into: element or selector; render: (slot, into) => element, or nothing
   nbx.report(slot, type, {reason, value, sentiment, text, …}) · nbx.track(type, properties) · nbx.consent({learn: false})
   nbx.identify(customer) · nbx.customer · nbx.scan(root) · before it is there: window.nbx = {q: [(nbx) => …]}
   Event ids follow from the decision, so that retries and reloads count once. An event is beaconed at once and kept
   for this tab until the service confirms it. Elements send CustomEvents `nbx:<type>`. */
(() => {
'use strict';
const before = window.nbx || {}, script = document.currentScript, own = script ? script.dataset : {};
if (before.decide) return;
const base = script ? new URL('.', script.src).href : '/';
const KEPT = 200, BATCH = 100, CONFIRM_MS = 3000, MINUTE_MS = 60000;

const memory = {};
const area = (name) => window[name === 'customer' ? 'localStorage' : 'sessionStorage'];
const read = (name, otherwise) => {
  try {
    const raw = own.storage !== 'off' && area(name).getItem(`nbx:${name}`);
    if (raw) return JSON.parse(raw);
  } catch (blocked) { /* memory has it */ }
  return name in memory ? memory[name] : otherwise;
};
const write = (name, value) => {
  memory[name] = value;
  try { if (own.storage !== 'off') area(name).setItem(`nbx:${name}`, JSON.stringify(value)); } catch (blocked) { /* same */ }
};
const uuid = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => (b + 256).toString(16).slice(1)).join('');
const warn = (text) => console.warn(`nbx: ${text}`);
const now = () => Math.round(Date.now() + read('ahead', 0)); // by the service's clock
const post = (call, body, more) => fetch(url(call), { method: 'POST', body, headers: { 'content-type': TEXT }, ...more });
const url = (call) => `${base}v1/${call}?key=${own.key || ''}`;
const TEXT = 'text/plain'; // needs no preflight

let customer = '', errors = 0, busy = null;
const who = () => {
  if (!customer) write('customer', (customer = read('customer', '') || `anon-${uuid()}`));
  return customer;
};

// Events: [event, beaconed], until the service has answered for them.
let queue = read('events', []), planned = false, confirming = false, timer = 0, waitMs = CONFIRM_MS;
const keep = () => {
  write('events', (queue = queue.slice(-KEPT)));
  clearTimeout(timer);
  if (queue.length) timer = setTimeout(confirm, waitMs);
};
const put = (event) => {
  queue.push([{ ...event, at: now() }, 0]);
  if (!planned) Promise.resolve().then(beacon); // after this task's other events, before it navigates
  planned = true;
};
const beacon = () => {
  planned = false;
  for (let fresh; (fresh = queue.filter((q) => !q[1]).slice(0, BATCH)).length;) {
    const body = new Blob([JSON.stringify(fresh.map((q) => q[0]))], { type: TEXT });
    if (!navigator.sendBeacon || !navigator.sendBeacon(url('events'), body)) { confirm(); break; }
    fresh.forEach((q) => { q[1] = 1; });
  }
  keep();
};
const confirm = async () => {
  if (confirming || !queue.length) return;
  confirming = true;
  const sent = queue.slice(0, BATCH);
  let gone = [];
  try {
    const answer = await post('events', JSON.stringify(sent.map((q) => q[0])), { keepalive: true });
    const told = await answer.json();
    if (answer.ok) { // a decision made while the log was away is known a little later
      gone = sent.filter((q, i) => !(['unavailable', 'decision_unknown'].includes(told[i].code) && q[0].at > now() - MINUTE_MS));
      told.filter((t) => t.status === 'rejected').forEach((t) => warn(t.detail));
    } else if (answer.status < 500 && answer.status !== 429) {
      gone = sent;
      warn(told.detail);
    }
  } catch (away) { /* they stay */ }
  queue = queue.filter((q) => !gone.includes(q));
  waitMs = gone.length ? CONFIRM_MS : Math.min(waitMs * 2, MINUTE_MS);
  confirming = false;
  keep();
};
const hosts = new Map();
const report = (slot, type, extras) => {
  if (!slot || !slot.decision_id || !slot.action) return;
  const { decision_id, customer_id } = slot, mark = `${slot.slot}/${type}`, all = read('decisions', []);
  const known = all.find((d) => d.id === decision_id) || { done: [] };
  if (known.done.includes(mark)) return;
  known.done.push(mark);
  write('decisions', all);
  put({ ...extras, event_id: `web:${decision_id}/${mark}`, type, decision_id, slot: slot.slot, customer_id });
  const host = hosts.get(decision_id + slot.slot);
  if (host) host.dispatchEvent(new CustomEvent(`nbx:${type}`, { bubbles: true, detail: slot }));
};
const track = (type, properties) => put({ event_id: `web:${uuid()}`, type, customer_id: who(), properties });

// Decisions: the same question is asked once at a time, and its answer kept for reloads.
const asking = new Map();
const ask = async (body, timeout) => {
  const stop = new AbortController(), alarm = setTimeout(() => stop.abort(), timeout || 1000);
  const once = async () => {
    const answer = await post('decisions', body, { signal: stop.signal });
    if (answer.status >= 500) throw Error(`HTTP ${answer.status}`);
    return [answer.ok, await answer.json()];
  };
  try {
    const [ok, told] = await once().catch(once); // the same request_id: decided once
    if (ok) return told;
    throw Error(told.detail);
  } finally { clearTimeout(alarm); }
};
const decided = async (name, question, { timeout, ttl }) => {
  const others = () => read('decisions', []).filter((d) => d.name !== name);
  const found = read('decisions', []).find((d) => d.name === name && d.until > Date.now());
  if (found) return found;
  const told = await ask(JSON.stringify({ ...question, request_id: uuid() }), timeout), id = told.decision_id;
  const at = parseInt(id.slice(3, 14), 16), ahead = at - Date.now(); // the id holds the service's time
  write('ahead', Math.abs(ahead) > 5000 ? ahead : 0);
  const slots = told.slots.map((s) => ({ ...s, decision_id: id, customer_id: question.customer_id }));
  const ends = slots.map((s) => (s.expires_at || at + MINUTE_MS) - at);
  const known = { name, id, until: Date.now() + (ttl * 1000 || Math.min(...ends)), slots, done: [] };
  write('decisions', [...others(), known].slice(-20));
  return known;
};
const decide = async (options) => {
  const began = performance.now(), had = errors, { into, render, fallback } = options;
  const host = typeof into === 'string' ? document.querySelector(into) : into;
  if (document.prerendering) await new Promise((go) => document.addEventListener('prerenderingchange', go));
  const question = { customer_id: options.customer || who(), placement: options.placement, slots: +options.slots || 1,
    context: typeof options.context === 'string' ? JSON.parse(options.context) : options.context || {}, exclude: options.exclude || [] };
  const name = JSON.stringify(question);
  let known;
  try {
    if (!asking.has(name)) asking.set(name, decided(name, question, options));
    known = await asking.get(name);
  } catch (error) {
    warn(`${question.placement}: ${error.message}`);
    known = { slots: (typeof fallback === 'function' ? fallback(error) : fallback) || [], done: [] };
  } finally { asking.delete(name); }
  for (const slot of known.slots) {
    const over = /dismissed|declined|failed/.test(known.done.filter((d) => d.startsWith(`${slot.slot}/`)));
    if (!slot.none && !over && (host ? host.isConnected : render)) show(slot, host, options, began, had);
  }
  return known.slots;
};

// Rendering, and what becomes of it.
const make = (tag, name, more) => Object.assign(document.createElement(tag), { className: `nbx-${name}` }, more);
const href = (given) => {
  try {
    const to = new URL(given, document.baseURI);
    return given && /^https?:$/.test(to.protocol) ? to.href : '';
  } catch (wrong) { return ''; }
};
const card = (slot, label) => {
  const c = Object(slot.content) === slot.content ? slot.content : { body: slot.content };
  const box = make('section', 'slot'), link = href(c.url), image = href(c.image);
  box.setAttribute('aria-label', label || c.headline || c.body || c.cta || 'nbx');
  if (image) box.append(make('img', 'image', { src: image, alt: c.alt || '' }));
  if (c.headline) box.append(make('p', 'headline', { textContent: c.headline }));
  if (c.body) box.append(make('p', 'body', { textContent: c.body }));
  const cta = make(link ? 'a' : 'button', 'cta', { textContent: c.cta, ...(link ? { href: link } : { type: 'button' }) });
  cta.dataset.nbxEvent = 'accepted';
  if (c.cta) box.append(cta);
  const close = make('button', 'close', { type: 'button', textContent: '×' });
  close.setAttribute('aria-label', c.close || 'Close');
  close.dataset.nbxEvent = 'dismissed';
  box.append(close);
  return box;
};
const broke = (slot, reason) => report(slot, 'failed', { reason });
const show = (slot, into, { render, label }, began, had) => {
  let shown;
  busy = slot; // what breaks until it is in the page is its own
  try {
    shown = render ? render(slot, into) : card(slot, label);
    if (shown && shown.then) shown = shown.catch(() => broke(slot, 'render_error')) && null;
    if (shown && into && !shown.isConnected) into.append(shown);
  } catch (error) {
    console.error(error);
    return broke(slot, 'render_error');
  } finally { busy = null; }
  const host = shown || into, properties = { render_ms: Math.round(performance.now() - began), errors: errors - had };
  if (host) {
    const box = host.getBoundingClientRect(), size = box.width * box.height;
    const cut = (from, to, end) => Math.max(0, Math.min(to, end) - Math.max(from, 0));
    const inside = cut(box.left, box.right, innerWidth) * cut(box.top, box.bottom, innerHeight);
    Object.assign(properties, size ? { in_view: +(inside / size).toFixed(2) } : { viewable: 0 });
    hosts.set(slot.decision_id + slot.slot, host);
    watch(slot, host, into);
  }
  report(slot, 'delivered', { properties });
};
const watch = (slot, host, into) => {
  let wait = 0, half = false;
  const look = () => {
    clearTimeout(wait);
    if (half && !document.hidden) wait = setTimeout(() => { end(); report(slot, 'seen'); }, 1000);
  };
  const eye = new IntersectionObserver((records) => {
    const last = records.pop(), { width, height } = last.intersectionRect, root = last.rootBounds;
    const fills = root && width * height >= root.width * root.height / 2;
    if (half !== (half = last.intersectionRatio >= 0.5 || !!fills)) look();
  }, { threshold: Array.from({ length: 21 }, (_, i) => i / 20) });
  const end = () => { half = false; look(); eye.disconnect(); };
  eye.observe(host);
  document.addEventListener('visibilitychange', look);
  const act = (type) => {
    report(slot, type);
    if (type !== 'dismissed') return;
    end();
    if (host === into) host.textContent = ''; else host.remove();
  };
  for (const type of ['click', 'auxclick', 'keydown']) host.addEventListener(type, (event) => {
    busy = slot; // and what breaks while it is used
    setTimeout(() => { busy = null; });
    const named = event.target.closest('[data-nbx-event]');
    if (type === 'keydown') { if (event.key === 'Escape') act('dismissed'); }
    else if (named && event.button < 2) act(named.dataset.nbxEvent);
  }, true);
  host.addEventListener('error', () => broke(slot, 'render_error'), true);
};
const scan = (root = document) => root.querySelectorAll('[data-nbx-placement]').forEach((into) => {
  const { nbxPlacement, nbxCustomer, nbxSlots, nbxContext, nbxTimeout, nbxTtl, nbxLabel, nbxState } = into.dataset;
  into.dataset.nbxState = 'asked';
  if (!nbxState) decide({ placement: nbxPlacement, customer: nbxCustomer, slots: nbxSlots, into, timeout: nbxTimeout, ttl: nbxTtl,
    label: nbxLabel, context: nbxContext });
});

addEventListener('error', () => { errors++; if (busy) broke(busy, 'page_error'); });
addEventListener('unhandledrejection', () => { errors++; });
addEventListener('pagehide', beacon);
addEventListener('online', confirm);
document.addEventListener('visibilitychange', () => { if (document.hidden) beacon(); });
const api = window.nbx = { decide, report, track, scan, consent: (said) => track('consent', said),
  identify: (id) => { customer = id; }, get customer() { return who(); }, q: { push: (run) => run(api) } };
confirm();
if (document.readyState === 'loading') addEventListener('DOMContentLoaded', () => scan()); else scan();
(before.q || []).forEach((run) => run(api));
})();
