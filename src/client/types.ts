/**
 * What a table of messages says: for each type of message, what its data is. Nothing of this is in the built files.
 * @module
 */
import type { Message } from "./message.ts";

/** The types of a table. */
export type TypeOf<Messages extends object> = Extract<keyof Messages, string>;

/** The data of a type. */
export type DataOf<Messages extends object, Type extends string> = Type extends keyof Messages ? Messages[Type] : unknown;

/** A message of any type of the table; `type` says which, and so what `data` is. */
export type AnyMessage<Messages extends object> = {
  [Type in TypeOf<Messages>]: Message<Messages[Type]> & { readonly type: Type };
}[TypeOf<Messages>];

/** The data of the answer to a type: that of `{type}.reply`, where the table has it. */
export type Answer<Messages extends object, Type extends string> = DataOf<Messages, `${Type}.reply`>;
