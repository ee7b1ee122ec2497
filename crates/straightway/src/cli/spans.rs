//! Spans of requests to an OpenTelemetry collector: OTLP over HTTP, to `OTEL_EXPORTER_OTLP_ENDPOINT`. Without that variable
//! nothing is sent, and a span costs nothing.
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;

/// What sends the spans, in batches, from a thread of its own.
pub(super) struct Spans(SdkTracerProvider);

impl Spans {
    /// Sends what is left.
    pub(super) fn end(self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

/// The layer that turns spans of requests into those of OpenTelemetry, if a collector is named.
pub(super) fn start<S>() -> (Option<impl Layer<S>>, Option<Spans>)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_none() {
        return (None, None);
    }
    // The exporter's HTTP client takes whatever TLS there is: ours. It may have been chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = match opentelemetry_otlp::SpanExporter::builder().with_http().build() {
        Ok(exporter) => exporter,
        Err(error) => {
            eprintln!("error: spans cannot be exported: {error}");
            return (None, None);
        }
    };
    let resource = Resource::builder().with_service_name("straightway").build();
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    let tracer = provider.tracer("straightway");
    let ours = Targets::new().with_target("straightway", LevelFilter::DEBUG);
    let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_filter(ours);
    (Some(layer), Some(Spans(provider)))
}
