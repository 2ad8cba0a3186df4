// What takes time, away from the page: loads the runtime and the model once, reads a picture, enhances it.
// Takes {picture: Blob, runtime: 'auto', 'wasm' or 'webgpu'}; answers {step, share}, then {done} or {error}.
import {carry, fitColour, reduced, reducedSize} from './carry.js'

const PIXELS = 640 * 420               // computed whole up to here; larger pictures at about this size
const LARGEST = 16_000_000             // of a canvas on a phone
const SHOWN = 1600                     // longest side of what the page shows; the download is full size
const CELL = 4                         // side of a token's place, pixels
const COLOURS = [[0, 0, 4], [62, 15, 114], [148, 44, 128], [222, 73, 104], [254, 159, 109], [252, 253, 191]]
let loaded = null

const here = path => new URL(path, import.meta.url).href
const tell = (step, share) => postMessage({step, share})

async function fetched(path) {
  const answer = await fetch(here(path))
  if (!answer.ok) throw new Error('The files of this page are not on this site: it was built without them.')
  return answer
}

// The bytes of the packed files, with progress over all of them; unpacked where the host has not done so.
async function unpacked(files) {
  const total = files.reduce((sum, o) => sum + o.packed, 0)
  let before = 0
  const out = []
  for (const {path, packed} of files) {
    const parts = []
    let got = 0
    const reader = (await fetched(path)).body.getReader()
    for (;;) {
      const {done, value} = await reader.read()
      if (done) break
      parts.push(value)
      got += value.length
      tell('load', (before + Math.min(got, packed)) / total)
    }
    before += packed
    const blob = new Blob(parts)
    const start = new Uint8Array(await blob.slice(0, 2).arrayBuffer())
    const zipped = start[0] === 0x1f && start[1] === 0x8b
    const plain = zipped ? new Response(blob.stream().pipeThrough(new DecompressionStream('gzip'))) : blob
    out.push(await plain.arrayBuffer())
  }
  return out
}

// Is there a graphics processor? One that is only imitated is slower than the processor itself.
async function hasGPU(runtime) {
  if (runtime === 'wasm') return false
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null)
  if (!adapter) return false
  return runtime === 'webgpu' || !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter)
}

async function load(runtime) {
  const files = await (await fetched('files.json')).json()
  const kind = await hasGPU(runtime) ? 'webgpu' : 'wasm'
  const [binary, model] = await unpacked([files[kind].wasm, files.model])
  tell('start')
  const ort = await import(here(files[kind].module))
  ort.env.logLevel = 'error'
  ort.env.wasm.numThreads = 1          // more need headers that a plain host doesn't send
  ort.env.wasm.wasmBinary = binary
  ort.env.wasm.wasmPaths = {mjs: here(files[kind].glue)}
  const start = provider => ort.InferenceSession.create(new Uint8Array(model), {executionProviders: [provider]})
  if (kind === 'webgpu') {
    tell('probe')
    const session = await start('webgpu').catch(() => null)
    if (session && await agrees(ort, session, files.probe)) return {ort, session, kind}
    tell('start')
  }
  return {ort, session: await start('wasm'), kind: 'wasm'}
}

// Does a graphics processor give what Python gave for a small picture? If not, it isn't used.
async function agrees(ort, session, probe) {
  try {
    const x = await run(ort, session, Float32Array.from(probe.low, o => o / 255), probe.h, probe.w)
    const off = x.x.reduce((sum, v, i) => sum + Math.abs(v - probe.high[i]), 0) / x.x.length
    return off < 0.5 / 255
  } catch { return false }
}

// Row numbers 0, 1, .., n-1, n-2, .., 0, 1, .. as seen between two mirrors.
const mirrored = (i, n) => n === 1 ? 0 : (n - 1) - Math.abs(i % (2 * (n - 1)) - (n - 1))

// Planes in [0, 1] through the network, mirrored to sides that it takes: the planes x and the entropy of each cell.
async function run(ort, session, planes, h, w) {
  const m = Math.min(h, w) < 16 ? 16 : 8
  const H = Math.ceil(h / m) * m
  const W = Math.ceil(w / m) * m
  const padded = new Float32Array(3 * H * W)
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < H; i++) {
      const row = (c * h + mirrored(i, h)) * w
      for (let j = 0; j < W; j++) padded[(c * H + i) * W + j] = planes[row + mirrored(j, w)]
    }
  }
  const out = await session.run({x_low: new ort.Tensor('float32', padded, [1, 3, H, W])}, ['x', 'entropy'])
  const x = new Float32Array(3 * h * w)
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < h; i++) {
      x.set(out.x.data.subarray((c * H + i) * W, (c * H + i) * W + w), (c * h + i) * w)
    }
  }
  if (!x.every(Number.isFinite)) throw new Error('The result of this picture is not a picture.')
  return {x, entropy: out.entropy.data, gh: H / CELL, gw: W / CELL}
}

async function read(blob) {
  const image = await createImageBitmap(blob).catch(() => {
    throw new Error('This browser cannot read the file as a picture. Give a JPEG, PNG or WebP file.')
  })
  const [height, width] = reducedSize(image.height, image.width, LARGEST)
  const canvas = new OffscreenCanvas(width, height)
  const context = canvas.getContext('2d', {willReadFrequently: true})
  context.drawImage(image, 0, 0, width, height)
  return context.getImageData(0, 0, width, height)
}

function bytesOf(planes, h, w) {
  const out = new Uint8ClampedArray(4 * h * w).fill(255)
  for (let i = 0; i < h * w; i++) {
    for (let c = 0; c < 3; c++) out[4 * i + c] = 255 * planes[c * h * w + i]
  }
  return out
}

// A picture without colour stays one.
function keepGrey(low, high) {
  for (let i = 0; i < low.length; i += 4) if (low[i] !== low[i + 1] || low[i] !== low[i + 2]) return
  for (let i = 0; i < high.length; i += 4) {
    high[i] = high[i + 1] = high[i + 2] = 0.299 * high[i] + 0.587 * high[i + 1] + 0.114 * high[i + 2]
  }
}

// Black, violet, red, orange, pale yellow: how unsure the model was, a pixel for each place.
function entropyImage({entropy, gh, gw}, h, w) {
  const image = new ImageData(gw, gh)
  entropy.forEach((value, i) => {
    const v = 5 * Math.min(Math.max(value, 0), 1)
    const k = Math.min(Math.floor(v), 4)
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = COLOURS[k][c] + (v - k) * (COLOURS[k + 1][c] - COLOURS[k][c])
    image.data[4 * i + 3] = 255
  })
  return createImageBitmap(image, 0, 0, Math.ceil(w / CELL), Math.ceil(h / CELL))
}

function shown(image) {
  const s = Math.min(1, SHOWN / Math.max(image.width, image.height))
  if (s === 1) return createImageBitmap(image)
  const size = {resizeWidth: Math.round(image.width * s), resizeHeight: Math.round(image.height * s)}
  return createImageBitmap(image, {...size, resizeQuality: 'medium'})
}

async function packed(image) {
  const canvas = new OffscreenCanvas(image.width, image.height)
  canvas.getContext('2d').putImageData(image, 0, 0)
  const small = image.width * image.height <= 2_000_000
  return canvas.convertToBlob(small ? {type: 'image/png'} : {type: 'image/jpeg', quality: 0.95})
}

async function enhance({picture, runtime}) {
  loaded ??= load(runtime)
  loaded.catch(() => { loaded = null })
  const {ort, session, kind} = await loaded
  const began = performance.now()
  tell('compute')
  const low = await read(picture)
  const {width, height} = low
  const [h, w] = reducedSize(height, width, PIXELS)
  const planes = reduced(low.data, height, width, h, w)
  const small = await run(ort, session, planes, h, w)
  let bytes
  if (h === height && w === width) bytes = bytesOf(small.x, h, w)
  else bytes = carry(low.data, height, width, fitColour(planes, small.x, h, w), h, w, o => tell('carry', o))
  keepGrey(low.data, bytes)
  const high = new ImageData(bytes, width, height)
  const seconds = (performance.now() - began) / 1000
  const maps = await entropyImage(small, h, w)
  const [before, after, file] = [await shown(low), await shown(high), await packed(high)]
  postMessage({done: {before, after, maps, file, width, height, h, w, kind, seconds}}, [before, after, maps])
}

onmessage = ({data}) => enhance(data).catch(e => postMessage({error: e.message}))
