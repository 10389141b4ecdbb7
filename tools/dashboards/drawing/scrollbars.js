// Stands in for react-custom-scrollbars-2, whose default export a bundler for browsers and one for node find differently.
export { Scrollbars, Scrollbars as default } from './node_modules/react-custom-scrollbars-2/lib/index.js';
