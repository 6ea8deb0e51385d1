//! [`Chart`]: lines over time as SVG, drawn on the server: no script, and the same in every browser.

use super::super::format;

/// Size of the plot in its own units, with room for labels left and below.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 64.0;
const BELOW: f64 = 20.0;
const ABOVE: f64 = 8.0;

/// Horizontal lines above zero.
const GRID_LINES: u32 = 2;

/// What is drawn, point by point; nothing where there is no value.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) values: Vec<Option<f64>>,
}

/// Everything the template prints.
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) label: String,
    pub(super) names: Vec<&'static str>,
    pub(super) grid: Vec<(String, String)>,
    pub(super) times: Vec<(String, &'static str, String)>,
    /// The paths of the lines, in the order of their names.
    pub(super) paths: Vec<String>,
    /// A bar of the whole height for each point, with what it says.
    pub(super) bars: Vec<(String, String)>,
    pub(super) bar_width: String,
}

impl Chart {
    /// Draws lines that share their times.
    pub(super) fn draw(title: &'static str, times: &[i64], lines: Vec<Line>, unit: fn(f64) -> String) -> Self {
        let highest = lines.iter().flat_map(|line| &line.values).flatten().fold(0.0_f64, |a, b| a.max(*b));
        let top = nice(highest);
        let step = (WIDTH - LEFT) / times.len().max(1) as f64;
        let x = |place: usize| LEFT + (place as f64 + 0.5) * step;
        let y = |value: f64| ABOVE + (1.0 - value / top) * (HEIGHT - ABOVE - BELOW);
        let grid = (0..=GRID_LINES).map(|line| top * f64::from(line) / f64::from(GRID_LINES));
        let say = |place: usize, time: &i64| {
            let said = |line: &Line| format!("{} {}", line.name, line.values[place].map_or("–".into(), unit));
            let values: Vec<String> = lines.iter().map(said).collect();
            (format!("{:.1}", x(place) - step / 2.0), format!("{}: {}", format::moment(*time), values.join(", ")))
        };
        Self {
            title,
            label: format!("{title} over time, at most {}; the table below holds the same", unit(highest)),
            names: lines.iter().map(|line| line.name).collect(),
            grid: grid.map(|value| (format!("{:.1}", y(value)), unit(value))).collect(),
            times: labels(times, x),
            bars: times.iter().enumerate().map(|(place, time)| say(place, time)).collect(),
            bar_width: format!("{step:.2}"),
            paths: lines.iter().map(|line| path(&line.values, x, y)).collect(),
        }
    }
}

/// The first, middle and last time.
fn labels(times: &[i64], x: impl Fn(usize) -> f64) -> Vec<(String, &'static str, String)> {
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return Vec::new() };
    // within a day the date says nothing new
    let long = last - first >= 86_400_000_000_000;
    let text = |time: i64| if long { format::day_and_hour(time) } else { format::hour_and_minute(time) };
    let mut labels = vec![(format!("{LEFT}"), "", text(*first))];
    if times.len() > 2 {
        labels.push((format!("{:.1}", x(times.len() / 2)), "middle", text(times[times.len() / 2])));
    }
    if times.len() > 1 {
        labels.push((format!("{WIDTH}"), "end", text(*last)));
    }
    labels
}

/// A line with gaps where there is no value; a lone value is a dash.
fn path(values: &[Option<f64>], x: impl Fn(usize) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut path = String::new();
    let mut drawing = false;
    for (place, value) in values.iter().enumerate() {
        let Some(value) = value else {
            drawing = false;
            continue;
        };
        let (x, y) = (x(place), y(*value));
        let goes_on = values.get(place + 1).is_some_and(Option::is_some);
        path += &match (drawing, goes_on) {
            (true, _) => format!("L{x:.1} {y:.1}"),
            (false, true) => format!("M{x:.1} {y:.1}"),
            (false, false) => format!("M{:.1} {y:.1}h6", x - 3.0),
        };
        drawing = true;
    }
    path
}

/// The next larger of 1, 2, 4, 5 and 8, times a power of ten: their halves are short to write.
fn nice(highest: f64) -> f64 {
    if highest <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(highest.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0];
    steps.into_iter().map(|step| step * power).find(|top| *top >= highest * 0.999).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_inside_and_break_where_nothing_is_known() {
        let values = vec![Some(0.0), None, Some(90.0), Some(45.0)];
        let lines = vec![Line { name: "rate", values }];
        let chart = Chart::draw("Rate", &[0, 1, 2, 3], lines, format::rate);
        assert_eq!(chart.paths, ["M113.0 160.0h6M324.0 23.2L428.0 91.6"]);
        assert_eq!(chart.grid.last().unwrap(), &("8.0".to_owned(), "100/s".to_owned()));
        assert!(chart.bars[1].1.ends_with("rate –"), "{}", chart.bars[1].1);
        assert_eq!((chart.bars[0].0.as_str(), chart.bar_width.as_str()), ("64.0", "104.00"));
        assert!(Chart::draw("Rate", &[], Vec::new(), format::rate).times.is_empty());
    }

    #[test]
    fn the_top_is_a_round_number() {
        for (highest, top) in [(0.0, 1.0), (0.9, 1.0), (1.0, 1.0), (1.2, 2.0), (51.0, 80.0), (0.0081, 0.01)] {
            assert!((nice(highest) - top).abs() < 1e-9, "{highest}: {}", nice(highest));
        }
    }
}
