/**
 * Names that nobody else has.
 * @module
 */

/** 128 random bits as 32 hexadecimal digits. Not `crypto.randomUUID`: pages on plain http do not have it. */
export function randomId(): string {
  let text = "";
  for (const byte of crypto.getRandomValues(new Uint8Array(16))) text += byte.toString(16).padStart(2, "0");
  return text;
}
