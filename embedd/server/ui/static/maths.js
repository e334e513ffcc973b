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
