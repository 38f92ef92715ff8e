//! Plots of the last minutes, drawn here as SVG. Words and numbers are beside the drawing, which is stretched to any width.

use maud::{Markup, html};

use super::super::history::KEPT;

/// Height of the drawing; its width is that of the time shown, in seconds.
const HEIGHT: f64 = 100.0;

/// One line of a plot.
pub(super) struct Line {
    /// What it shows.
    pub(super) name: String,
    /// Times in seconds, and values.
    pub(super) points: Vec<(f64, f64)>,
}

/// Lines over the last minutes, from zero to the largest of their values; `say` puts a value in words.
pub(super) fn plot(title: &str, lines: &[Line], say: &dyn Fn(f64) -> String) -> Markup {
    let values = || lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value);
    let (top, now) = (values().fold(0.0, f64::max), lines.iter().flat_map(|line| &line.points));
    let now = now.map(|(at, _)| *at).fold(0.0, f64::max);
    let first = lines.iter().flat_map(|line| &line.points).map(|(at, _)| *at).fold(now, f64::min);
    let minutes = [1, 2].into_iter().find(|minutes| now - first <= f64::from(minutes * 60)).unwrap_or(KEPT as u32 / 60);
    let (span, parts) = (f64::from(minutes * 60), if minutes == 5 { 5 } else { 4 });
    let last = |line: &Line| line.points.last().map_or(0.0, |(_, value)| *value);
    let place = |(at, value): &(f64, f64)| {
        let x = span - (now - at);
        let y = HEIGHT - if top > 0.0 { value / top * (HEIGHT - 2.0) } else { 0.0 } - 1.0;
        format!("{x:.1},{y:.1}")
    };
    let spoken: Vec<String> = lines.iter().map(|line| format!("{} {}", line.name, say(last(line)))).collect();
    let spoken = format!("{title}: now {}; at most {} in the last {minutes} min", spoken.join(", "), say(top));
    html! {
        figure.plot {
            figcaption { (title) " " span.quiet { "at most " (say(top)) } }
            svg role="img" aria-label=(spoken) viewBox={ "0 0 " (span) " " (HEIGHT) } preserveAspectRatio="none" {
                @for at in (1..parts).map(|part| span * f64::from(part) / f64::from(parts)) {
                    line.grid x1=(at) x2=(at) y1="0" y2=(HEIGHT) {}
                }
                @for (i, line) in lines.iter().enumerate().filter(|(_, line)| line.points.len() > 1) {
                    polyline class={ "line series-" (i % 4) } points=(line.points.iter().map(place).collect::<Vec<_>>().join(" ")) {}
                }
            }
            p.axis aria-hidden="true" { span { (minutes) " min ago" } span { "now" } }
            ul.legend {
                @for (i, line) in lines.iter().enumerate() {
                    li class={ "series-" (i % 4) } { (line.name) " " b { (say(last(line))) } }
                }
            }
        }
    }
}
