// The tokens of an answer with their log probabilities: what is kept of them, and what they are for people.

export const MAX_TOKENS = 2000; // of an answer; a longer one keeps none

// `tokens` and those of an event: { text, logprob, bytes, top: [{ text, logprob }] }, `bytes` of what is no whole characters. null: too many.
export function withTokens(tokens, content) {
  if (tokens === null || tokens.length + content.length > MAX_TOKENS) return null;
  return [...tokens, ...content.map((token) => {
    const isPart = token.bytes && decoded(token.bytes) === null;
    return { ...entry(token), ...(isPart && { bytes: token.bytes }), top: (token.top_logprobs ?? []).map(entry) };
  })];
}

function entry({ token, logprob, bytes }) {
  const isWhole = !bytes || decoded(bytes) !== null;
  return { text: isWhole ? token : bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join(""), logprob: Math.round(logprob * 1e4) / 1e4 };
}

// What was stored or imported, if it is tokens.
export function checkedTokens(given) {
  const isEntry = (one) => typeof one?.text === "string" && Number.isFinite(one.logprob);
  if (given === null || given?.length > MAX_TOKENS) return null;
  return Array.isArray(given) && given.every((one) => isEntry(one) && Array.isArray(one.top) && one.top.every(isEntry)) ? given : [];
}

// Pieces of whole characters: { text, probability, tokens }. Tokens that are parts of characters are joined.
export function piecesOf(tokens) {
  const found = [];
  let open = []; // tokens whose bytes are no whole characters yet
  const bytes = () => open.flatMap((token) => token.bytes);
  const close = () => {
    if (open.length) found.push(piece(new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes())), open));
    open = [];
  };
  for (const token of tokens) {
    if (!token.bytes || decoded([...bytes(), ...token.bytes], true) === null) close();
    if (!token.bytes) found.push(piece(token.text, [token]));
    else {
      open.push(token);
      if (decoded(bytes()) !== null) close();
    }
  }
  close();
  return found;
}

const piece = (text, tokens) => ({ text, tokens, probability: Math.exp(tokens.reduce((sum, { logprob }) => sum + logprob, 0)) });

// From 0, what the model was sure of, to 4.
export const stepOf = (probability) => [0.9, 0.7, 0.4, 0.1].filter((bound) => probability < bound).length;

export const percent = (probability) => (probability > 0 && probability < 0.0005 ? "< 0.1 %" : `${(100 * probability).toFixed(1)} %`);

// The text of bytes; null if they are no whole characters, or with `stream` if more bytes cannot make them so.
function decoded(bytes, stream = false) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(bytes), { stream });
  } catch {
    return null;
  }
}
