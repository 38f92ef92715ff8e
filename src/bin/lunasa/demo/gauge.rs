//! Where the run stands, for whoever asks this rank's page: the hook `/hooks/heat`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lunasa::Lunasa;
use lunasa::status::HookReply;
use maud::html;

use super::error::Result;

/// The step and the residual of one rank, read by its endpoint's thread while the run writes them.
#[derive(Debug, Default)]
pub struct Gauge {
    step: AtomicU64,
    /// The bits of an `f64`.
    residual: AtomicU64,
}

impl Gauge {
    /// A gauge shown at `/hooks/heat`.
    pub fn register(lunasa: &Lunasa, steps: u64) -> Result<Arc<Self>> {
        let gauge = Arc::new(Self::default());
        let shown = Arc::clone(&gauge);
        lunasa.hooks().register("heat", move |_| HookReply::html(shown.html(steps)))?;
        Ok(gauge)
    }

    /// Notes that `step` steps are done, and the largest change of a cell in the last.
    pub fn note(&self, step: u64, residual: f64) {
        self.residual.store(residual.to_bits(), Relaxed);
        self.step.store(step, Relaxed);
    }

    fn html(&self, steps: u64) -> String {
        let (step, residual) = (self.step.load(Relaxed), f64::from_bits(self.residual.load(Relaxed)));
        html! {
            table {
                tr { th { "step" } td { (step) " of " (steps) } }
                tr { th { "residual (largest change of a cell of this rank in the last step)" } td { (format!("{residual:.3e}")) } }
            }
        }
        .into_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_the_last_note() {
        let gauge = Gauge::default();
        gauge.note(7, 0.125);
        gauge.note(8, 0.0625);
        let html = gauge.html(10);
        assert!(html.contains("8 of 10") && html.contains("6.250e-2"), "{html}");
    }
}
