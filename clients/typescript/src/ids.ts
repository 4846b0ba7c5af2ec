/**
 * Return a random id. `crypto.randomUUID` is missing in pages that were loaded over plain HTTP, and
 * Node.js 18 has no global `crypto`: ids need to be unique, not secret.
 */
export function randomId(prefix: string): string {
  const bytes = new Uint8Array(16);
  const source = (globalThis as { crypto?: Crypto }).crypto;
  if (source !== undefined) source.getRandomValues(bytes);
  else bytes.forEach((_, at) => (bytes[at] = Math.random() * 256));
  return prefix + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
