// Proves that the tests of the six promises can fail: makes each mistake of test/mutations.json in a copy of the tree, runs the suites there,
// and compares the rules that turned red with the list. `npm run mutations`, or with a word to choose, of what it says or the name of a suite:
// `npm run mutations -- 201`, `npm run mutations -- model`.
// It takes about a minute a mistake.
import { MUTATIONS, tryMutation } from "./mutate.mjs";

const words = process.argv.slice(2);
const chosen = MUTATIONS.filter(({ says, suites = [] }) => words.every((word) => says.includes(word) || suites.includes(word)));
const right = chosen.filter((mutation) => tryMutation(mutation).isRight).length;
console.log(`${right} of ${chosen.length} mistakes turn exactly their tests red`);
process.exit(right === chosen.length && chosen.length > 0 ? 0 : 1);
