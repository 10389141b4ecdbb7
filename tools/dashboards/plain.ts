import type { AnnotationQuery } from '@grafana/schema';
import type { Dashboard as Dashboard10 } from 'grafana-10-schema';

// The schema's types as JSON has them: an enum's value is a plain string or number in a file.
export type Plain<T> = unknown extends T
  ? T
  : T extends string
    ? `${T}`
    : T extends number
      ? `${T}` extends `${infer N extends number}`
        ? N
        : T
      : T extends readonly (infer U)[]
        ? Plain<U>[]
        : T extends object
          ? { [K in keyof T]: Plain<T[K]> }
          : T;

// Grafana 10 wants a style and fills in "dark"; its type of variables is that of its own state, with what no file has.
export type Grafana10 = Omit<Dashboard10, 'style' | 'templating'>;

// An annotation, with what the Prometheus data source adds; its types are not in the schema's package.
export interface Annotation extends Plain<Omit<AnnotationQuery, 'target'>> {
  titleFormat?: string;
  textFormat?: string;
  target?: Pick<PrometheusQuery, 'refId' | 'expr' | 'legendFormat' | 'range' | 'instant'> & { interval: string };
}

// The Prometheus data source's query, as far as the dashboards use it.
export interface PrometheusQuery {
  refId: string;
  datasource: { type: 'prometheus'; uid: '${datasource}' };
  editorMode: 'code';
  expr: string;
  legendFormat: string;
  range: boolean;
  instant: boolean;
  format: 'heatmap' | 'table' | 'time_series';
}
