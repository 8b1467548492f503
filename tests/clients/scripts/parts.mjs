// What the scripts of the JavaScript clients share. The last line of a script is the result of its part, as JSON.
import {z} from 'zod';

export const URL = process.argv[2];
export const PART = process.argv[3];
export const [GREETING, SUM, DOG, ENDLESS] = ['Good morning, who are you?', 'What is 714 + 273?', 'Invent a dog.', 'Count without end.'];
export const MOST = 24;  // tokens of a reply to the greeting
export const Dog = z.object({name: z.enum(['Rex', 'Fido']), age: z.int().min(1).max(9)});
export const Sum = z.object({expression: z.string().describe('A sum.')});
export const calculator = ({expression}) => String(expression.split('+').reduce((sum, number) => sum + Number(number), 0));

export async function main(parts) {
  console.log(JSON.stringify(await parts[PART]()));
  process.exit(0);
}
