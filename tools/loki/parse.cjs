// Reads a JSON list of LogQL expressions, writes for each the texts that its grammar has no place for: none if it is valid.
const { parser } = require("@grafana/lezer-logql");

const expressions = JSON.parse(require("fs").readFileSync(0, "utf-8"));
const errors = expressions.map((expression) => {
  const found = [];
  parser.parse(expression).iterate({
    enter: (node) => {
      if (node.type.isError) found.push(expression.slice(node.from, node.to) || `nothing at ${node.from}`);
    },
  });
  return found;
});
process.stdout.write(JSON.stringify(errors));
