// The quick path of lowlight_nat/inference/guided.py, number by number: a large picture is computed small,
// and what happened to its light and colour is carried to every pixel. Planes are laid out (channel, row, column).

const GREY = [0.299, 0.587, 0.114]     // weights of red, green and blue, ITU-R BT.601

// The size [height, width] in which the network computes a picture: the same proportions, about so many pixels.
export function reducedSize(height, width, pixels) {
  if (height * width <= pixels) return [height, width]
  const s = Math.sqrt(pixels / (height * width))
  return [Math.max(1, Math.round(height * s)), Math.max(1, Math.round(width * s))]
}

// RGBA bytes as three planes in [0, 1], each pixel the mean of those that it stands for.
export function reduced(bytes, height, width, h, w) {
  const out = new Float32Array(3 * h * w)
  const lefts = Array.from({length: w}, (_, j) => Math.floor(j * width / w))
  const rights = Array.from({length: w}, (_, j) => Math.ceil((j + 1) * width / w))
  const sums = new Float64Array(3 * width)
  for (let i = 0; i < h; i++) {
    const top = Math.floor(i * height / h)
    const bottom = Math.ceil((i + 1) * height / h)
    sums.fill(0)
    for (let y = top; y < bottom; y++) {
      let at = 4 * y * width
      for (let x = 0; x < width; x++, at += 4) {
        for (let c = 0; c < 3; c++) sums[3 * x + c] += bytes[at + c]
      }
    }
    for (let j = 0; j < w; j++) {
      const n = 255 * (bottom - top) * (rights[j] - lefts[j])
      for (let c = 0; c < 3; c++) {
        let sum = 0
        for (let x = lefts[j]; x < rights[j]; x++) sum += sums[3 * x + c]
        out[(c * h + i) * w + j] = sum / n
      }
    }
  }
  return out
}

// Mean over a window of 2r+1 pixels a side around each pixel; at the border over what lies inside.
export function windowMean(plane, h, w, r) {
  const across = new Float64Array(h * w)
  const out = new Float64Array(h * w)
  for (let i = 0; i < h; i++) {
    for (let j = 0; j < w; j++) {
      let sum = 0
      for (let x = Math.max(0, j - r); x <= Math.min(w - 1, j + r); x++) sum += plane[i * w + x]
      across[i * w + j] = sum
    }
  }
  for (let i = 0; i < h; i++) {
    const top = Math.max(0, i - r)
    const bottom = Math.min(h - 1, i + r)
    for (let j = 0; j < w; j++) {
      let sum = 0
      for (let y = top; y <= bottom; y++) sum += across[y * w + j]
      const columns = Math.min(w - 1, j + r) - Math.max(0, j - r) + 1
      out[i * w + j] = sum / ((bottom - top + 1) * columns)
    }
  }
  return out
}

function channels(x, n, scale) {
  return [0, 1, 2].map(c => Float64Array.from(x.subarray(c * n, (c + 1) * n), v => v * scale))
}

function greyMean(planes) {
  return planes.reduce((sum, p, c) => sum + GREY[c] * p.reduce((a, b) => a + b, 0) / p.length, 0)
}

function covariance(a, b, ma, mb, h, w, r) {
  const mean = windowMean(a.map((v, i) => v * b[i]), h, w, r)
  return mean.map((v, i) => v - ma[i] * mb[i])
}

// A = cov(v,u) (cov(u,u) + eps I)^-1 in each window, and the mean over windows: nine planes, row by row of A.
export function colourSlopes(u, v, h, w, r, eps) {
  const n = h * w
  const mu = u.map(p => windowMean(p, h, w, r))
  const mv = v.map(p => windowMean(p, h, w, r))
  const S = [[], [], []]
  for (let a = 0; a < 3; a++) {
    for (let b = a; b < 3; b++) {
      S[a][b] = S[b][a] = covariance(u[a], u[b], mu[a], mu[b], h, w, r)
    }
    S[a][a] = S[a][a].map(o => o + eps)
  }
  const V = v.map((p, c) => u.map((q, k) => covariance(p, q, mv[c], mu[k], h, w, r)))
  const A = Array.from({length: 9}, () => new Float64Array(n))
  for (let i = 0; i < n; i++) {
    const xx = S[0][0][i], xy = S[0][1][i], xz = S[0][2][i]
    const yy = S[1][1][i], yz = S[1][2][i], zz = S[2][2][i]
    const c00 = yy * zz - yz * yz, c01 = yz * xz - xy * zz, c02 = xy * yz - yy * xz
    const c11 = zz * xx - xz * xz, c12 = xz * xy - xx * yz, c22 = xx * yy - xy * xy
    const d = xx * c00 + xy * c01 + xz * c02
    for (let c = 0; c < 3; c++) {
      const p = V[c][0][i], q = V[c][1][i], s = V[c][2][i]
      A[3 * c][i] = (p * c00 + q * c01 + s * c02) / d
      A[3 * c + 1][i] = (p * c01 + q * c11 + s * c12) / d
      A[3 * c + 2][i] = (p * c02 + q * c12 + s * c22) / d
    }
  }
  return A.map(p => windowMean(p, h, w, r))
}

// The twelve maps that turn the small picture u into its result v, exactly: nine slopes, three constants.
export function fitColour(u, v, h, w, r = 2, eps = 3e-4) {
  const n = h * w
  const result = channels(v, n, 1)
  const plain = channels(u, n, 1)
  const s = Math.max(greyMean(result), 1e-3) / Math.max(greyMean(plain), 1e-3)
  const A = colourSlopes(channels(u, n, s), result, h, w, r, eps)
  const maps = new Float32Array(12 * n)
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < n; i++) {
      let b = result[c][i]
      for (let k = 0; k < 3; k++) {
        const slope = s * A[3 * c + k][i]
        maps[(3 * c + k) * n + i] = slope
        b -= slope * plain[k][i]
      }
      maps[(9 + c) * n + i] = b
    }
  }
  return maps
}

// Between which two of n samples each of N places lies, and how far behind the first.
function linearTaps(n, N) {
  const at = Array.from({length: N}, (_, i) => Math.min(Math.max((i + 0.5) * n / N - 0.5, 0), n - 1))
  const first = at.map(Math.floor)
  return {first, second: first.map(i => Math.min(i + 1, n - 1)), t: at.map((v, i) => v - first[i])}
}

// Enlarge the twelve maps smoothly, and apply them to the RGBA bytes of the large picture: new RGBA bytes.
export function carry(bytes, height, width, maps, h, w, tell = () => {}) {
  const out = new Uint8ClampedArray(4 * height * width)
  const rows = linearTaps(h, height)
  const columns = linearTaps(w, width)
  const first = Int32Array.from(columns.first)
  const second = Int32Array.from(columns.second)
  const t = Float64Array.from(columns.t)
  const now = new Float64Array(12 * w)                 // of one row, the twelve numbers of a place together
  for (let i = 0; i < height; i++) {
    const above = rows.first[i] * w
    const below = rows.second[i] * w
    const f = rows.t[i]
    for (let m = 0; m < 12; m++) {
      for (let j = 0; j < w; j++) {
        const a = maps[m * h * w + above + j]
        now[12 * j + m] = a + f * (maps[m * h * w + below + j] - a)
      }
    }
    let at = 4 * i * width
    for (let x = 0; x < width; x++, at += 4) {
      const a = 12 * first[x]
      const b = 12 * second[x]
      for (let c = 0; c < 3; c++) {
        let y = now[a + 9 + c] + t[x] * (now[b + 9 + c] - now[a + 9 + c])
        for (let k = 0; k < 3; k++) {
          const slope = now[a + 3 * c + k] + t[x] * (now[b + 3 * c + k] - now[a + 3 * c + k])
          y += slope * bytes[at + k] / 255
        }
        out[at + c] = 255 * y                          // an array of this kind rounds and clips
      }
      out[at + 3] = 255
    }
    if (i % 64 === 0) tell(i / height)
  }
  return out
}
