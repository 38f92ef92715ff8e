//! A rank's numbers for Prometheus and its kin: OpenMetrics text, or the older text format for who prefers that.
//!
//! All of it comes from one [`Snapshot`]. There is a series per pool and per route, never one per peer, object or block, so
//! that a job of many ranks does not wear out who stores them.

use std::fmt;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::snapshot::{PoolInfo, Snapshot, TrafficInfo};

/// What a series has beside the rank and its host.
type Labels = Vec<(&'static str, String)>;

/// How the numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exposition {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// The older text format of Prometheus, version 0.0.4.
    Text,
}

impl Exposition {
    /// What a request accepts most; OpenMetrics where it does not care.
    pub(super) fn wanted(headers: &HeaderMap) -> Self {
        let accepted: Vec<&str> = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok()).collect();
        let accepted = accepted.join(",");
        let openmetrics = quality(&accepted, ["application/openmetrics-text", "application/*", "*/*"]);
        if quality(&accepted, ["text/plain", "text/*", "*/*"]) > openmetrics { Self::Text } else { Self::OpenMetrics }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => prometheus_text::CONTENT_TYPE,
        }
    }

    /// The numbers of a rank.
    ///
    /// # Errors
    /// None that a snapshot could cause: writing into memory does not fail.
    pub(super) fn write(self, snapshot: Snapshot) -> Result<String, fmt::Error> {
        let labels = [("rank", snapshot.rank.rank.to_string()), ("host", snapshot.rank.host.clone())]
            .map(|(k, v)| (k.into(), v.into()));
        let mut registry = Registry::with_prefix_and_labels("lunasa", labels.into_iter());
        registry.register_collector(Box::new(Numbers(snapshot)));
        let mut written = String::new();
        match self {
            Self::OpenMetrics => text::encode(&mut written, &registry),
            Self::Text => prometheus_text::encode(&mut written, &registry),
        }?;
        Ok(written)
    }
}

/// How much an `Accept` header wants what goes by these names, the most exact first: 0 not at all, 1 most.
fn quality(accepted: &str, names: [&str; 3]) -> f64 {
    let of_name = |name: &str| {
        let ranges = accepted.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_meant = parts.next()?.eq_ignore_ascii_case(name);
            let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            is_meant.then(|| quality.map_or(1.0, |quality| quality.parse::<f64>().unwrap_or(0.0)))
        });
        ranges.reduce(f64::max)
    };
    names.iter().find_map(|name| of_name(name)).unwrap_or(0.0)
}

/// What there is to say of one rank.
#[derive(Debug)]
struct Numbers(Snapshot);

/// A gauge per pool: name, unit, what it is, and where it is found.
type OfPool = (&'static str, Option<Unit>, &'static str, fn(&PoolInfo) -> u64);

/// A counter per route and operation: name, unit, what it is, and where it is found for get, put and serve.
type OfRoute = (&'static str, Option<Unit>, &'static str, [fn(&TrafficInfo) -> u64; 3]);

impl Collector for Numbers {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let (mut out, snapshot) = (Families(encoder), &self.0);
        let rank = &snapshot.rank;
        let about: Labels = vec![
            ("version", rank.version.clone()),
            ("mpi", rank.mpi.clone()),
            ("registrar", rank.registrar.clone()),
            ("run", rank.run.clone()),
        ];
        out.info("instance", "What this rank is made of", &about)?;
        out.gauge("uptime", Some(Unit::Seconds), "Time since the start of the rank", one(rank.uptime_s))?;
        out.gauge("ranks", None, "Ranks of the job", one(u64::from(rank.ranks)))?;
        self.pools(&mut out)?;
        self.registrations(&mut out)?;
        self.traffic(&mut out)
    }
}

impl Numbers {
    fn pools(&self, out: &mut Families<'_>) -> fmt::Result {
        let bytes = || Some(Unit::Bytes);
        let gauges: [OfPool; 10] = [
            ("pool_live_objects", None, "Objects alive", |pool| pool.live_objects),
            ("pool_most_live_objects", None, "The most objects alive at once", |pool| pool.most_live_objects),
            ("pool_allocated", bytes(), "What live objects asked for, headers included", |pool| pool.allocated_bytes),
            ("pool_most_allocated", bytes(), "The most that live objects asked for at once", |pool| {
                pool.most_allocated_bytes
            }),
            ("pool_managed", bytes(), "Memory mapped from the system", |pool| pool.managed_bytes),
            ("pool_most_managed", bytes(), "The most memory mapped at once", |pool| pool.high_water_bytes),
            ("pool_used", bytes(), "Managed memory handed out, with rounding", |pool| pool.used_bytes),
            ("pool_free", bytes(), "Managed memory not handed out", |pool| pool.free_bytes),
            ("pool_cached", bytes(), "Free memory that caches keep for reuse", |pool| pool.cached_bytes),
            ("pool_bookkeeping", bytes(), "Books of the manager, outside the managed memory", |pool| {
                pool.bookkeeping_bytes
            }),
        ];
        let of_pool = |of: fn(&PoolInfo) -> u64| {
            self.0.pools.iter().map(move |pool| (vec![("pool", pool.name.clone())], of(pool)))
        };
        for (name, unit, help, of) in gauges {
            out.gauge(name, unit, help, of_pool(of))?;
        }
        out.counter("pool_allocations", None, "Objects allocated", of_pool(|pool| pool.allocations))?;
        let blocks = |pool: &PoolInfo| self.0.blocks.iter().filter(|block| block.pool == pool.name).count() as u64;
        let blocks = self.0.pools.iter().map(|pool| (vec![("pool", pool.name.clone())], blocks(pool)));
        out.gauge("pool_blocks", None, "Blocks of memory", blocks)
    }

    fn registrations(&self, out: &mut Families<'_>) -> fmt::Result {
        let done = &self.0.registrations;
        out.gauge("registered_regions", None, "Regions registered", one(done.regions))?;
        out.gauge("registered", Some(Unit::Bytes), "Memory registered", one(done.bytes))?;
        out.counter("registrations", None, "Registrations done", one(done.done))?;
        out.counter(
            "registrations_avoided",
            None,
            "Objects that needed no registration of their own",
            one(done.avoided),
        )?;
        let help = "Memory of objects that needed no registration of their own";
        out.counter("registrations_avoided", Some(Unit::Bytes), help, one(done.avoided_bytes))?;
        let help = "Time spent registering and deregistering";
        out.counter("registrations_spent", Some(Unit::Seconds), help, one(done.spent_s))?;
        let Some(saved) = done.saved_s else { return Ok(()) };
        let help = "Time that the avoided registrations would have taken";
        out.counter("registrations_saved", Some(Unit::Seconds), help, one(saved))
    }

    fn traffic(&self, out: &mut Families<'_>) -> fmt::Result {
        let counters: [OfRoute; 2] = [
            (
                "transfer",
                Some(Unit::Bytes),
                "What was transferred",
                [|route| route.get_bytes, |route| route.put_bytes, |route| route.served_bytes],
            ),
            ("transfers", None, "Transfers", [|route| route.gets, |route| route.puts, |route| route.served]),
        ];
        for (name, unit, help, of) in counters {
            let each = ["get", "put", "serve"].into_iter().zip(of);
            let series = self.0.traffic.iter().flat_map(|route| {
                let labels =
                    |operation: &str| vec![("route", route.route.clone()), ("operation", operation.to_owned())];
                each.clone().map(move |(operation, of)| (labels(operation), of(route)))
            });
            out.counter(name, unit, help, series)?;
        }
        let errors = self.0.traffic.iter().map(|route| (vec![("route", route.route.clone())], route.errors));
        out.counter("transfer_errors", None, "Transfers that failed", errors)
    }
}

/// The one series of a family without labels of its own.
fn one<N>(value: N) -> [(Labels, N); 1] {
    [(Labels::new(), value)]
}

/// Writes families, each with all of its series.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn info(&mut self, name: &str, help: &str, about: &Labels) -> fmt::Result {
        self.begin(name, help, None, MetricType::Info)?.encode_info(about)
    }

    fn gauge<N: EncodeGaugeValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        series: impl IntoIterator<Item = (Labels, N)>,
    ) -> fmt::Result {
        let mut family = self.begin(name, help, unit.as_ref(), MetricType::Gauge)?;
        series.into_iter().try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    fn counter<N: EncodeCounterValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        series: impl IntoIterator<Item = (Labels, N)>,
    ) -> fmt::Result {
        let mut family = self.begin(name, help, unit.as_ref(), MetricType::Counter)?;
        series.into_iter().try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter::<Labels, _, u64>(&value, None)
        })
    }

    fn begin<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        // The full stop is as the registry ends the words of what is registered with it.
        self.0.encode_descriptor(name, &format!("{help}."), unit, kind)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_accepted_most_is_written_and_openmetrics_when_it_is_all_the_same() {
        let wanted = |accepted: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accepted.parse().unwrap());
            Exposition::wanted(&headers)
        };
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for accepted in [prometheus, "*/*", "", "text/html", "application/openmetrics-text,text/plain", "q=;,;q=x,/"] {
            assert_eq!(wanted(accepted), Exposition::OpenMetrics, "{accepted}");
        }
        let old = "text/plain;version=0.0.4;q=1,*/*;q=0.1";
        for accepted in [old, "text/plain", "text/*", "TEXT/PLAIN ; q=0.2", "application/openmetrics-text;q=0, */*"] {
            assert_eq!(wanted(accepted), Exposition::Text, "{accepted}");
        }
        assert_eq!(Exposition::wanted(&HeaderMap::new()), Exposition::OpenMetrics);
    }
}
