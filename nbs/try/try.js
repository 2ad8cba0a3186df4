// The page "Try it": pictures in, the worker's answers shown. Nothing is sent anywhere.
const SAMPLES = [
  ['astronaut.webp', 'astronaut'], ['camera.png', 'camera'], ['chelsea.jpg', 'cat'], ['coffee.png', 'coffee'],
  ['hopper.jpg', 'admiral'], ['rocket.webp', 'rocket'],
]
const STEPS = {
  load: share => `Loading the model: ${Math.round(100 * share)} percent`,
  start: () => 'Starting the model. This takes a few seconds.',
  probe: () => 'Trying the graphics processor with a small picture.',
  compute: () => 'Enhancing the picture. This can take half a minute on a phone.',
  carry: share => `Carrying the result to every pixel: ${Math.round(100 * share)} percent`,
}
const here = path => new URL(path, import.meta.url).href
const find = o => document.querySelector(`#try ${o}`)
const PATIENCE = 20_000       // with a graphics processor, milliseconds; then the processor itself does it
let runtime = new URLSearchParams(location.search).get('runtime') ?? 'auto'
const status = find('#try-status')
let worker = null
let address = null
let timer = 0

function say(text) { status.textContent = text }

function busy(on) {
  find('.try-busy').hidden = !on
  find('#try-open').disabled = on
  for (const o of document.querySelectorAll('#try .try-samples button')) o.disabled = on
  document.getElementById('try').setAttribute('aria-busy', String(on))
}

// What a screen reader is told once a step, and the bar shows all the time.
let last = ''
function step({step, share}) {
  const bar = find('progress')
  if (share === undefined) bar.removeAttribute('value')
  else bar.value = share
  const text = STEPS[step](share ?? 0)
  const tenth = `${step} ${Math.floor(10 * (share ?? 0))}`
  if (tenth !== last) say(text)
  last = tenth
}

function stop(text) {
  clearTimeout(timer)
  worker?.terminate()
  worker = null
  busy(false)
  say(text)
}

function draw(canvas, image) {
  canvas.width = image.width
  canvas.height = image.height
  canvas.getContext('2d').drawImage(image, 0, 0)
  image.close()
}

function show(done, name) {
  draw(find('.try-before'), done.before)
  draw(find('.try-after'), done.after)
  draw(find('.try-map'), done.maps)
  find('.try-view').style.setProperty('--shape', done.width / done.height)
  if (address) URL.revokeObjectURL(address)
  address = URL.createObjectURL(done.file)
  const save = find('#try-save')
  save.href = address
  save.download = `${name.replace(/\.[^.]*$/, '')}_enhanced.${done.file.type === 'image/png' ? 'png' : 'jpg'}`
  const whole = done.h === done.height && done.w === done.width
  const size = `${done.width} by ${done.height} pixels`
  find('#try-note').textContent = whole
    ? `Computed whole, at ${size}.`
    : `Computed at ${done.w} by ${done.h} pixels and carried to ${size}. Noise finer than that stays.`
  find('.try-result').hidden = false
  const on = done.kind === 'webgpu' ? 'your graphics processor' : 'one core of your processor'
  say(`Done in ${done.seconds.toFixed(1)} seconds on ${on}. Drag the line on the picture to compare.`)
}

function enhance(picture, name, button) {
  if (!find('.try-busy').hidden) return
  for (const o of document.querySelectorAll('#try .try-samples button')) {
    o.setAttribute('aria-pressed', String(o === button))
  }
  last = ''
  busy(true)
  find('progress').removeAttribute('value')
  say('Opening the picture.')
  worker ??= new Worker(here('worker.js'), {type: 'module'})
  worker.onerror = () => stop('This browser cannot run the model. A current Chrome, Edge, Firefox or Safari can.')
  worker.onmessage = ({data}) => {
    clearTimeout(timer)
    if (data.step === 'probe') {
      timer = setTimeout(() => {
        stop('')
        runtime = 'wasm'
        enhance(picture, name, button)
      }, PATIENCE)
    }
    if (data.step) return step(data)
    busy(false)
    if (data.error) return say(data.error)
    show(data.done, name)
  }
  worker.postMessage({picture, runtime})
}

async function sample(file, button) {
  const answer = await fetch(here(`samples/${file}`)).catch(() => null)
  if (!answer?.ok) return say('The sample could not be loaded.')
  enhance(await answer.blob(), file, button)
}

function photograph(file) {
  if (file) enhance(file, file.name, null)
}

for (const [file, name] of SAMPLES) {
  const button = document.createElement('button')
  button.type = 'button'
  button.setAttribute('aria-pressed', 'false')
  const image = document.createElement('img')
  image.src = here(`samples/${file.replace(/\..*$/, '')}_small.jpg`)
  image.alt = ''
  button.append(image, name)
  button.addEventListener('click', () => sample(file, button))
  find('.try-samples').append(button)
}

find('#try-open').addEventListener('click', () => find('#try-file').click())
find('#try-file').addEventListener('change', ({target}) => {
  photograph(target.files[0])
  target.value = ''
})
find('#try-cancel').addEventListener('click', () => stop('Cancelled.'))

const page = document.getElementById('try')
const drop = find('.try-drop')
for (const kind of ['dragenter', 'dragover']) {
  page.addEventListener(kind, e => {
    e.preventDefault()
    drop.classList.add('over')
  })
}
for (const kind of ['dragleave', 'drop']) page.addEventListener(kind, () => drop.classList.remove('over'))
page.addEventListener('drop', e => {
  e.preventDefault()
  photograph(e.dataTransfer.files[0])
})

const range = find('.try-view input')
range.addEventListener('input', () => {
  find('.try-view').style.setProperty('--at', `${range.value}%`)
  range.setAttribute('aria-valuetext', `${range.value}% dark`)
})
find('#try-doubt').addEventListener('change', ({target}) => {
  find('.try-map').hidden = !target.checked
  find('.try-scale').hidden = !target.checked
  find('#try-right').textContent = target.checked ? 'unsure where bright' : 'enhanced'
})

fetch(here('files.json')).catch(() => ({ok: false})).then(({ok}) => {
  if (ok) return say('Nothing is loaded until you pick a picture.')
  find('#try-open').disabled = true
  find('.try-samples').replaceChildren()
  say('The files of this page are not on this site: it was built without them.')
})
