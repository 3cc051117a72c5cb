// As much of JSON Schema as the project's own schemas use; a keyword that is not known here is an error of this page.

const ANNOTATIONS = new Set(["title", "description", "default", "$id", "$schema", "$defs"]);
const TYPES = {
  object: isObject,
  array: Array.isArray,
  string: (value) => typeof value === "string",
  integer: (value) => typeof value === "number" || typeof value === "bigint",
  number: (value) => typeof value === "number" || typeof value === "bigint" || value instanceof Real,
  boolean: (value) => typeof value === "boolean",
  null: (value) => value === null,
};
const KEYWORDS = {
  type: (value, type) => TYPES[type](value),
  const: (value, wanted) => value === wanted,
  enum: (value, allowed) => allowed.includes(value),
  pattern: (value, pattern) => typeof value !== "string" || new RegExp(pattern, "u").test(value),
  minLength: (value, least) => typeof value !== "string" || [...value].length >= least,
  maxLength: (value, most) => typeof value !== "string" || [...value].length <= most,
  minItems: (value, least) => !Array.isArray(value) || value.length >= least,
  minimum: (value, least) => !TYPES.number(value) || scalar(value) >= least,
  maximum: (value, most) => !TYPES.number(value) || scalar(value) <= most,
  exclusiveMinimum: (value, least) => !TYPES.number(value) || scalar(value) > least,
  exclusiveMaximum: (value, most) => !TYPES.number(value) || scalar(value) < most,
  required: (value, names) => !isObject(value) || names.every((name) => name in value),
};
const scalar = (value) => (value instanceof Real ? value.value : value);

// Returns the value with plain numbers. Throws Malformed with the place of the first thing that does not fit.
function fit(value, schema, defs, place) {
  if ("$ref" in schema) return fit(value, defs[schema.$ref.split("/").pop()], defs, place);
  if ("anyOf" in schema) {
    const problems = [];
    for (const option of schema.anyOf) {
      try {
        return fit(value, option, defs, place);
      } catch (problem) {
        if (!(problem instanceof Malformed)) throw problem;
        problems.push(problem);
      }
    }
    throw problems[0];
  }
  for (const [keyword, argument] of Object.entries(schema)) {
    if (ANNOTATIONS.has(keyword) || ["properties", "additionalProperties", "items"].includes(keyword)) continue;
    if (!(keyword in KEYWORDS)) throw new Error(`this page does not know the schema keyword ${keyword}`);
    if (!KEYWORDS[keyword](value, argument)) throw new Malformed(`${place}: does not fit the schema (${keyword})`);
  }
  if (value instanceof Real) return value.value;
  if (Array.isArray(value)) {
    return "items" in schema ? value.map((item, index) => fit(item, schema.items, defs, `${place}[${index}]`)) : value;
  }
  if (!isObject(value)) return value;
  const result = Object.create(null);
  for (const [name, item] of Object.entries(value)) {
    const known = Object.hasOwn(schema.properties ?? {}, name) ? schema.properties[name] : schema.additionalProperties;
    if (known === false) throw new Malformed(`${place}: a member that no reader knows`);
    result[name] = fit(item, isObject(known) ? known : {}, defs, `${place}.${name}`);
  }
  return result;
}

// Seconds since 1970 of a record's time; 31 February is refused.
function parseTime(text, subject) {
  const parsed = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(text) ? new Date(text) : new Date(NaN);
  if (Number.isNaN(parsed.getTime()) || parsed.toISOString() !== text.replace("Z", ".000Z")) {
    throw new Malformed(`${subject}: not a day and time of the calendar`);
  }
  return parsed.getTime() / 1000;
}
