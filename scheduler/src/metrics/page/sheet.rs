//! Writes metrics one after the other: what the library's encoder needs, without its type parameters.

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};
use std::fmt;

use crate::metrics::histogram::Reading;

/// The page while it is written. Names of counters come without `_total`, and those with a unit without that: both are appended.
pub(super) struct Sheet<'a>(pub DescriptorEncoder<'a>);

impl Sheet<'_> {
    pub(super) fn info(&mut self, name: &str, help: &str, labels: &[(&str, &String)]) -> fmt::Result {
        let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.gauge_in(name, help, None, value)
    }

    pub(super) fn gauge_in(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    pub(super) fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counter_in(name, help, None, value)
    }

    pub(super) fn counter_in(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        count(&mut self.0.encode_descriptor(name, help, unit, MetricType::Counter)?, value)
    }

    pub(super) fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            count(&mut family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }

    /// A histogram of seconds.
    pub(super) fn histogram(&mut self, name: &str, help: &str, reading: &Reading) -> fmt::Result {
        draw(&mut self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?, reading)
    }

    /// Histograms of seconds.
    pub(super) fn histograms<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        readings: impl Iterator<Item = (L, Reading)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, reading) in readings {
            draw(&mut family.encode_family(&labels)?, &reading)?;
        }
        Ok(())
    }
}

fn count(encoder: &mut MetricEncoder<'_>, value: impl EncodeCounterValue) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn draw(encoder: &mut MetricEncoder<'_>, reading: &Reading) -> fmt::Result {
    encoder.encode_histogram::<NoLabelSet>(reading.sum_seconds, reading.count, &reading.ranges, None)
}
