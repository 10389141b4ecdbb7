// Draws panels with Grafana's own components, transformations and field overrides, from what a Prometheus answered.
import React from 'react';
import { createRoot } from 'react-dom/client';
import {
  FieldConfigOptionsRegistry,
  FieldType,
  ThemeContext,
  applyFieldOverrides,
  createTheme,
  dateTime,
  getFieldDisplayValues,
  standardTransformers,
  standardTransformersRegistry,
  toDataFrame,
  transformDataFrame,
} from '@grafana/data';
import { BigValue, GlobalStyles, PanelChrome, PanelContextProvider, Table, TimeSeries } from '@grafana/ui';

const { title, subtitle, from, to, width, panels, annotations } = window.PICTURE;
const theme = createTheme({ colors: { mode: 'dark' } });
const timeRange = { from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } };
const CELL = 30;
const GAP = 8;

standardTransformersRegistry.setInit(() =>
  [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer].map((transformation) => ({
    id: transformation.id,
    name: transformation.name,
    transformation,
    imageDark: '',
    imageLight: '',
  }))
);

// Grafana's registries of field settings belong to its panels, which are in no package: here, a setting is its path.
const settings = (panel) => {
  const { defaults, overrides } = panel.fieldConfig;
  const properties = overrides.flatMap((override) => override.properties.map((property) => property.id));
  const custom = Object.keys(defaults.custom ?? {}).map((key) => `custom.${key}`);
  const standard = Object.keys(defaults).filter((key) => key !== 'custom');
  return new FieldConfigOptionsRegistry(() =>
    [...new Set([...properties, ...custom, ...standard])].map((id) => ({
      id,
      name: id,
      path: id.replace(/^custom\./, ''),
      isCustom: id.startsWith('custom.'),
      process: (value) => value,
      shouldApply: () => true,
    }))
  );
};

const legend = (format, labels) =>
  format === '__auto' ? undefined : format.replace(/{{(\w+)}}/g, (_, label) => labels[label] ?? '');

const overTime = (target) =>
  target.result.map(({ metric, values, value }) => {
    const points = values ?? [value];
    return toDataFrame({
      refId: target.refId,
      fields: [
        { name: 'Time', type: FieldType.time, values: points.map(([time]) => time * 1000) },
        {
          name: 'Value',
          type: FieldType.number,
          labels: metric,
          values: points.map(([, number]) => Number(number)),
          config: { displayNameFromDS: legend(target.legendFormat, metric) },
        },
      ],
    });
  });

const rows = (target, several) => {
  const labels = [...new Set(target.result.flatMap(({ metric }) => Object.keys(metric)))].sort();
  const column = (name, type, values) => ({ name, type, values });
  return toDataFrame({
    refId: target.refId,
    fields: labels.length === 0 && target.result.length === 0 ? [] : [
      column('Time', FieldType.time, target.result.map(() => to)),
      ...labels.map((label) => column(label, FieldType.string, target.result.map(({ metric }) => metric[label] ?? ''))),
      column(several ? `Value #${target.refId}` : 'Value', FieldType.number, target.result.map(({ value }) => Number(value[1]))),
    ],
  });
};

const overridden = (panel, data) =>
  applyFieldOverrides({
    data,
    fieldConfig: panel.fieldConfig,
    fieldConfigRegistry: settings(panel),
    replaceVariables: (text) => text,
    theme,
    timeZone: 'utc',
  });

// What an annotation query found, as Grafana shades it: a region wherever there is a series, a line where it begins.
const shade = (config) => {
  config.addHook('drawAxes', (plot) => {
    for (const { color, regions } of annotations) {
      for (const [begin, end] of regions) {
        const left = Math.max(plot.valToPos(begin * 1000, 'x', true), plot.bbox.left);
        const right = Math.min(plot.valToPos(end * 1000, 'x', true), plot.bbox.left + plot.bbox.width);
        plot.ctx.save();
        plot.ctx.fillStyle = theme.visualization.getColorByName(color);
        plot.ctx.globalAlpha = 0.12;
        plot.ctx.fillRect(left, plot.bbox.top, Math.max(right - left, 0), plot.bbox.height);
        plot.ctx.globalAlpha = 0.9;
        plot.ctx.fillRect(left, plot.bbox.top, 2, plot.bbox.height);
        plot.ctx.restore();
      }
    }
  });
  return null;
};

function Empty({ panel }) {
  const style = { color: theme.colors.text.secondary, textAlign: 'center', paddingTop: 20 };
  return <div style={style}>{panel.fieldConfig.defaults.noValue}</div>;
}

function Curves({ panel, width, height }) {
  const frames = overridden(panel, panel.targets.flatMap(overTime));
  if (frames.length === 0) {
    return <Empty panel={panel} />;
  }
  const common = { frames, timeRange, timeZone: 'utc', width, height, legend: panel.options.legend };
  return <TimeSeries {...common} options={panel.options}>{shade}</TimeSeries>;
}

function Number_({ panel, width, height }) {
  const data = panel.targets.flatMap(overTime);
  const [shown] = getFieldDisplayValues({
    data: overridden(panel, data),
    fieldConfig: panel.fieldConfig,
    reduceOptions: panel.options.reduceOptions,
    replaceVariables: (text) => text,
    theme,
    timeZone: 'utc',
  });
  const { colorMode, graphMode, justifyMode, textMode } = panel.options;
  return <BigValue value={shown.display} {...{ colorMode, graphMode, justifyMode, textMode, theme, width, height }} />;
}

function Rows({ panel, width, height }) {
  const [frame, setFrame] = React.useState();
  React.useEffect(() => {
    const data = panel.targets.map((target) => rows(target, panel.targets.length > 1));
    transformDataFrame(panel.transformations, data).subscribe((made) => setFrame(overridden(panel, made)[0]));
  }, [panel]);
  if (!frame || frame.length === 0) {
    return <Empty panel={panel} />;
  }
  const sort = panel.options.sortBy;
  return <Table data={frame} width={width} height={height} initialSortBy={sort} cellHeight="sm" timeRange={timeRange} />;
}

const KINDS = { stat: Number_, table: Rows, timeseries: Curves };

function Picture() {
  const cell = (width - GAP) / 24;
  const height = Math.max(...panels.map(({ gridPos }) => gridPos.y + gridPos.h)) * (CELL + GAP);
  return (
    <div style={{ width, padding: GAP, background: theme.colors.background.canvas }}>
      <div style={{ font: `500 18px ${theme.typography.fontFamily}`, color: theme.colors.text.primary, padding: '4px 4px 12px' }}>
        {title} <span style={{ color: theme.colors.text.secondary, fontSize: 13 }}>{subtitle}</span>
      </div>
      <div style={{ position: 'relative', height }}>
        {panels.map((panel) => {
          const { x, y, w, h } = panel.gridPos;
          const Drawn = KINDS[panel.type];
          const size = { width: w * cell - GAP, height: h * (CELL + GAP) - GAP };
          return (
            <div key={panel.id} style={{ position: 'absolute', left: x * cell, top: y * (CELL + GAP) }}>
              <PanelChrome title={panel.title} {...size}>
                {(width, height) => <Drawn panel={panel} width={width} height={height} />}
              </PanelChrome>
            </div>
          );
        })}
      </div>
    </div>
  );
}

createRoot(document.getElementById('picture')).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <PanelContextProvider value={{ eventsScope: 'picture', eventBus: { getStream: () => ({ pipe: () => ({ subscribe: () => ({ unsubscribe() {} }) }) }), publish() {} } }}>
      <Picture />
    </PanelContextProvider>
  </ThemeContext.Provider>
);
