// What every widget begins with. Texts go in as textContent, never as HTML.

function make(tag, cls, parent, text) {
  const el = document.createElement(tag)
  if (cls) el.className = cls
  if (text !== undefined) el.textContent = text
  if (parent) parent.append(el)
  return el
}

function button(parent, text, title, act) {
  const el = make('button', 'am-button', parent, text)
  el.type = 'button'
  el.title = title
  el.addEventListener('click', act)
  return el
}
