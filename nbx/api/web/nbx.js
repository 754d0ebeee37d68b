/* nbx in a page: decides, renders, reports. Nothing inline, no HTML from strings, no eval. See docs/web.md.
 <script src="https://nbx.example/nbx.js" data-key="nbx_..." async></script>   a key with the scope web
 <div data-nbx-placement="web_home_hero" data-nbx-customer="c-17"></div>       filled by itself
 nbx.decide({placement, customer, slots, context, exclude, into, render, timeout, ttl, fallback, label}): promise of slots
 nbx.report(slot, type, {reason, value, ...})  nbx.track(type, properties)  nbx.consent({learn: false})
 nbx.identify(customer)  nbx.customer  nbx.scan(root)  before it has loaded: window.nbx = {q: [(nbx) => ...]}
 Event ids follow from the decision, so retries and reloads count once. Events are beaconed at once and kept for
 this tab until the service confirms them. The document gets an event `nbx` for each. */
(() => {
'use strict';
const page = document, on = (target, ...how) => target.addEventListener(...how);
const before = window.nbx || {}, script = page.currentScript, own = script ? script.dataset : {};
if (before.decide) return;
const base = script ? new URL('.', script.src).href : '/', BATCH = 100, MINUTE = 60000;

const memory = {};
const area = (name) => own.storage !== 'off' && window[name === 'customer' ? 'localStorage' : 'sessionStorage'];
const read = (name, none) => {
	try { memory[name] = JSON.parse(area(name).getItem('nbx:' + name)) || memory[name]; } catch (blocked) {}
	return memory[name] || none;
};
const write = (name, value) => {
	memory[name] = value;
	try { area(name).setItem('nbx:' + name, JSON.stringify(value)); } catch (blocked) {}
};
const uuid = () => crypto.getRandomValues(new Uint32Array(4)).join('-');
const warn = (text) => console.warn('nbx: ' + text);
const now = () => Date.now() + read('ahead', 0); // by the service's clock
const url = (call) => `${base}v1/${call}?key=${own.key || ''}`;
const headers = { 'content-type': 'text/plain' }; // no preflight
const post = async (call, body, more) => {
	const answer = await fetch(url(call), { method: 'POST', body, headers, ...more });
	return [await answer.json(), answer.status];
};

let customer, errors = 0, busy;
const who = () => {
	if (!customer) write('customer', (customer = read('customer') || 'anon-' + uuid()));
	return customer;
};

// Events: [event, beaconed], until the service has answered for them.
let queue = read('events', []), planned, confirming, timer, wait = 3000;
const keep = () => {
	write('events', (queue = queue.slice(-200)));
	clearTimeout(timer);
	if (queue[0]) timer = setTimeout(confirm, wait);
};
const batch = (some) => JSON.stringify(some.map((q) => q[0]));
const put = (event) => {
	queue.push([{ ...event, at: now() }]);
	if (!planned) planned = Promise.resolve().then(beacon); // after this task's other events, before it navigates
};
const beacon = () => {
	planned = null;
	for (let fresh; (fresh = queue.filter((q) => !q[1]).slice(0, BATCH))[0];) {
		const body = new Blob([batch(fresh)], { type: 'text/plain' });
		if (!navigator.sendBeacon || !navigator.sendBeacon(url('events'), body)) { confirm(); break; }
		for (const q of fresh) q[1] = 1;
	}
	keep();
};
const confirm = async () => {
	if (confirming || !queue[0]) return;
	confirming = true;
	const sent = queue.slice(0, BATCH);
	let over = [];
	try {
		const body = batch(sent), [told, status] = await post('events', body, { keepalive: body.length < 5e4 }); // browsers bound it
		if (status < 300) { // a decision made while the log was away is known a little later
			over = sent.filter((q, i) => !/unavailable|decision_unknown/.test(told[i].code) || q[0].at < now() - MINUTE);
			for (const t of told) if (t.detail) warn(t.detail);
		} else if (status < 500 && status !== 429) {
			over = sent;
			warn(told.detail);
		}
	} catch (away) {}
	queue = queue.filter((q) => !over.includes(q));
	wait = over[0] ? 3000 : Math.min(wait * 2, MINUTE);
	confirming = false;
	keep();
};
const report = (slot, type, extras) => {
	const { decision_id, customer_id } = slot, mark = slot.slot + '/' + type, all = read('decisions', []);
	const known = all.find((d) => d.id === decision_id) || { done: [] };
	if (!decision_id || !slot.action || known.done.includes(mark)) return;
	known.done.push(mark);
	write('decisions', all);
	put({ ...extras, event_id: `web:${decision_id}/${mark}`, type, decision_id, slot: slot.slot, customer_id });
	page.dispatchEvent(new CustomEvent('nbx', { detail: { slot, type } }));
};
const track = (type, properties) => put({ event_id: 'web:' + uuid(), type, customer_id: who(), properties });

// Decisions: a question is asked once at a time, and its answer kept for reloads.
const asking = {};
const ask = async (body, timeout) => {
	const once = async () => {
		const stop = new AbortController(), alarm = setTimeout(() => stop.abort(), timeout || 1000);
		try {
			const [told, status] = await post('decisions', body, stop);
			if (status > 499) throw Error(told.detail);
			return told;
		} finally {
			clearTimeout(alarm);
		}
	};
	const told = await once().catch(once); // the same request_id: decided once
	if (told.decision_id) return told;
	throw Error(told.detail);
};
const decided = async (name, question, { timeout, ttl }) => {
	const found = read('decisions', []).find((d) => d.name === name && d.until > Date.now());
	if (found) return found;
	const ids = read('asked', {}), request_id = ids[name] || uuid(); // a reload while it waits asks the same question
	write('asked', { ...ids, [name]: request_id });
	const answered = () => write('asked', { ...read('asked', {}), [name]: undefined });
	const told = await ask(JSON.stringify({ ...question, request_id }), timeout).finally(answered);
	const id = told.decision_id;
	const at = parseInt(id.slice(3, 14), 16); // the id holds the service's time
	write('ahead', at - Date.now());
	const slots = told.slots.map((s) => ({ ...s, decision_id: id, customer_id: question.customer_id }));
	const lasts = Math.min(...slots.map((s) => (s.expires_at ? s.expires_at - at : MINUTE)));
	const known = { name, id, until: Date.now() + (ttl * 1000 || lasts), slots, done: [] };
	write('decisions', [...read('decisions', []).filter((d) => d.name !== name), known].slice(-20));
	return known;
};
const decide = async (options) => {
	const began = performance.now(), had = errors, { into, render, fallback, context } = options;
	const host = typeof into === 'string' ? page.querySelector(into) : into;
	if (page.prerendering) await new Promise((go) => on(page, 'prerenderingchange', go));
	const question = { customer_id: options.customer || who(), placement: options.placement, slots: +options.slots || 1,
		context: typeof context === 'string' ? JSON.parse(context) : context || {}, exclude: options.exclude || [] };
	const name = JSON.stringify(question);
	let known;
	try {
		known = await (asking[name] = asking[name] || decided(name, question, options));
	} catch (error) {
		warn(question.placement + ': ' + error.message);
		known = { slots: (typeof fallback === 'function' ? fallback(error) : fallback) || [], done: [] };
	}
	delete asking[name];
	for (const slot of known.slots) {
		const over = /dismissed|declined|failed/.test(known.done.filter((d) => d.startsWith(slot.slot + '/')));
		if (!slot.none && !over && (host ? host.isConnected : render)) show(slot, host, options, began, had);
	}
	return known.slots;
};

// Rendering, and what becomes of it.
const href = (given) => {
	try {
		const to = new URL(given, page.baseURI);
		return given && /^https?:$/.test(to.protocol) ? to.href : '';
	} catch (wrong) { return ''; }
};
const card = (slot, label) => {
	const c = Object(slot.content) === slot.content ? slot.content : { body: slot.content }, link = href(c.url), src = href(c.image);
	const make = (tag, name, more) => Object.assign(page.createElement(tag), { className: 'nbx-' + name }, more);
	const press = (tag, name, type, more) => {
		const made = make(tag, name, more);
		made.dataset.nbxEvent = type;
		return made;
	};
	const textContent = c.cta, type = 'button';
	const box = make('section', 'slot', { ariaLabel: label || c.headline || c.body || c.cta });
	if (src) box.append(make('img', 'image', { src, alt: c.alt || '' }));
	for (const part of ['headline', 'body']) if (c[part]) box.append(make('p', part, { textContent: c[part] }));
	if (c.cta) box.append(press(link ? 'a' : type, 'cta', 'accepted', link ? { href: link, textContent } : { type, textContent }));
	box.append(press(type, 'close', 'dismissed', { type, ariaLabel: c.close || 'Close', textContent: '\u00d7' }));
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
		const { top, bottom, height, width } = host.getBoundingClientRect();
		const inside = Math.max(0, Math.min(bottom, innerHeight) - Math.max(top, 0));
		Object.assign(properties, height * width ? { in_view: inside / height } : { viewable: 0 });
		watch(slot, host, into);
	}
	report(slot, 'delivered', { properties });
};
const watch = (slot, host, into) => {
	let pause, half = false;
	const look = () => {
		clearTimeout(pause);
		if (half && !page.hidden) pause = setTimeout(() => { end(); report(slot, 'seen'); }, 1000);
	};
	const eye = new IntersectionObserver((records) => {
		const last = records.pop(), { width, height } = last.intersectionRect, root = last.rootBounds;
		const is = last.intersectionRatio >= 0.5 || (root && width * height > root.width * root.height / 2);
		if (is !== half) { half = is; look(); }
	}, { threshold: [...Array(21).keys()].map((i) => i / 20) });
	const end = () => { half = false; look(); eye.disconnect(); };
	eye.observe(host);
	on(page, 'visibilitychange', look);
	for (const kind of ['click', 'auxclick', 'keydown']) on(host, kind, (event) => {
		busy = slot; // and what breaks while it is used
		setTimeout(() => { busy = null; });
		const named = event.target.closest('[data-nbx-event]');
		const type = event.key ? event.key === 'Escape' && 'dismissed' : named && event.button < 2 && named.dataset.nbxEvent;
		if (type) report(slot, type);
		if (type !== 'dismissed') return;
		end();
		if (host === into) host.textContent = ''; else host.remove();
	}, true);
	on(host, 'error', () => broke(slot, 'render_error'), true);
};
const scan = (root = page) => root.querySelectorAll('[data-nbx-placement]:not([data-nbx-asked])').forEach((into) => {
	const options = { into };
	for (const name in into.dataset) options[name.slice(3).toLowerCase()] = into.dataset[name];
	into.dataset.nbxAsked = 1;
	decide(options);
});

on(window, 'error', () => { errors++; if (busy) broke(busy, 'page_error'); });
on(window, 'unhandledrejection', () => { errors++; });
on(window, 'pagehide', beacon);
on(window, 'online', confirm);
on(page, 'visibilitychange', beacon);
const api = window.nbx = { decide, report, track, scan, consent: (said) => track('consent', said),
	identify: (id) => { customer = id; }, get customer() { return who(); }, q: { push: (run) => run(api) } };
confirm();
if (page.readyState === 'loading') on(window, 'DOMContentLoaded', () => scan()); else scan();
for (const run of before.q || []) run(api);
})();
