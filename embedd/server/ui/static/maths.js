// What the page computes itself, of vectors as arrays of numbers.

export const dot = (a, b) => {
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += a[i] * b[i];
  return sum;
};

export const cosine = (a, b) => {
  const length = Math.sqrt(dot(a, a) * dot(b, b));
  return length ? dot(a, b) / length : 0;
};

export const shorten = (vector, dimensions) => vector.slice(0, dimensions);

/** The vector as `dtype` keeps it: what a client gets back from numbers of that type. */
export function quantize(vector, dtype) {
  if (dtype === "float16") return vector.map(Math.f16round ?? roundToHalf);
  if (dtype === "int8") {
    const largest = Math.max(...vector.map(Math.abs)) || 1;
    return vector.map((value) => (Math.round((value / largest) * 127) * largest) / 127);
  }
  if (dtype === "binary") return vector.map((value) => (value > 0 ? 1 : -1));
  return vector;
}

/** Rounds to the 11 bits of a float16; the range of embeddings needs no exponents beyond it. */
function roundToHalf(value) {
  if (!value) return 0;
  const step = 2 ** Math.max(Math.floor(Math.log2(Math.abs(value))) - 10, -24);
  return Math.round(value / step) * step;
}

/** All cosines of a list of vectors, as rows. */
export const cosines = (vectors) => vectors.map((a) => vectors.map((b) => cosine(a, b)));

const STEPS = 200; // of the power iteration; few vectors converge long before

/** Places of vectors on their two principal axes, by power iteration on the Gram matrix.
 * The same vectors always have the same places: starts and signs are fixed. */
export function project(vectors) {
  const count = vectors.length;
  const mean = vectors[0].map((_, i) => vectors.reduce((sum, v) => sum + v[i], 0) / count);
  const centred = vectors.map((v) => v.map((value, i) => value - mean[i]));
  const gram = centred.map((a) => centred.map((b) => dot(a, b)));
  const first = findAxis(gram, []);
  const second = findAxis(gram, [first]);
  return vectors.map((_, i) => [first[i], second[i]]);
}

function findAxis(gram, others) {
  let axis = gram.map((_, i) => Math.sin(i + 1 + others.length));
  let value = 0;
  for (let step = 0; step < STEPS; step += 1) {
    for (const other of others) {
      const square = dot(other, other);
      const along = square ? dot(axis, other) / square : 0;
      axis = axis.map((a, i) => a - along * other[i]);
    }
    const next = gram.map((row) => dot(row, axis));
    value = Math.sqrt(dot(next, next));
    if (value < 1e-12) return gram.map(() => 0);
    axis = next.map((a) => a / value);
  }
  const largest = axis.reduce((best, a) => (Math.abs(a) > Math.abs(best) ? a : best), 0);
  const sign = largest < 0 ? -1 : 1;
  return axis.map((a) => a * sign * Math.sqrt(value));
}

const [LABEL_WIDTH, LABEL_HEIGHT, POINT] = [5, 8, 3.5]; // of a digit, a label, and from a point's middle
const AROUND = [0, 4, 2, 6, 1, 7, 3, 5].map((eighth) => (eighth * Math.PI) / 4);

const overlap = (a, b) =>
  Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));

const around = ([x, y], width, height) => [x - width / 2, y - height / 2, x + width / 2, y + height / 2];

/** The middle of the number beside each point, where it covers points and other numbers least. */
export function placeLabels(points) {
  const taken = points.map((point) => around(point, 2 * POINT, 2 * POINT));
  return points.map(([x, y], i) => {
    const width = LABEL_WIDTH * String(i + 1).length + 1;
    let best = null;
    for (const distance of [1, 1.8, 2.6]) {
      for (const angle of AROUND) {
        const middle = [
          x + Math.cos(angle) * distance * (POINT + width / 2),
          y + Math.sin(angle) * distance * (POINT + LABEL_HEIGHT / 2),
        ];
        const box = around(middle, width, LABEL_HEIGHT);
        const cost = taken.reduce((sum, other) => sum + overlap(box, other), 0);
        if (!best || cost < best.cost) best = { middle, box, cost };
      }
      if (best.cost === 0) break;
    }
    taken.push(best.box);
    return best.middle;
  });
}

/** Bound below which the share `q` of observations lies, of a histogram's cumulative counts.
 * Linear inside a bucket, as Prometheus computes it; null without observations. */
export function quantile(q, counts) {
  const buckets = Object.entries(counts)
    .map(([bound, count]) => [bound === "+Inf" ? Infinity : Number(bound), count])
    .sort((a, b) => a[0] - b[0]);
  const total = buckets.at(-1)?.[1] ?? 0;
  if (!total) return null;
  const wanted = q * total;
  let [low, below] = [0, 0];
  for (const [bound, count] of buckets) {
    if (count >= wanted) {
      if (bound === Infinity) return low;
      return low + ((bound - low) * (wanted - below)) / (count - below || 1);
    }
    [low, below] = [bound, count];
  }
  return low;
}
