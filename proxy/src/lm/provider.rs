//! Whose models an upstream serves, in the words of OpenTelemetry's `gen_ai.provider.name`: as configured, else by the
//! name of a public host. Of any other host nobody could say, and nothing is said.
//!
//! <https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/>

use std::sync::Arc;

use crate::{
    authority::split_port,
    config::{Discovery, Upstream},
};

/// Hosts, and domains of hosts (`.example`). Azure's `.services.ai.azure.com` is not among them: it answers for two.
const HOSTS: [(&str, &str); 19] = [
    ("api.openai.com", "openai"),
    (".api.openai.com", "openai"),
    ("api.anthropic.com", "anthropic"),
    (".openai.azure.com", "azure.ai.openai"),
    (".models.ai.azure.com", "azure.ai.inference"),
    (".inference.ai.azure.com", "azure.ai.inference"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("-aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("api.cohere.com", "cohere"),
    ("api.cohere.ai", "cohere"),
    ("api.deepseek.com", "deepseek"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.x.ai", "x_ai"),
    ("api.moonshot.ai", "moonshot_ai"),
    ("api.moonshot.cn", "moonshot_ai"),
    (".ml.cloud.ibm.com", "ibm.watsonx.ai"),
];

/// That of one of `all` upstreams; a part of another one has its provider, unless it says otherwise.
pub(crate) fn provider(upstream: &Upstream, all: &[Upstream]) -> Option<Arc<str>> {
    let whole = upstream.subset_of.as_ref().and_then(|part| all.iter().find(|other| other.name == part.upstream));
    let said = |upstream: &Upstream| upstream.gen_ai_provider.as_deref().map(Arc::from);
    said(upstream).or_else(|| whole.and_then(said)).or_else(|| by_hosts(whole.unwrap_or(upstream)).map(Arc::from))
}

/// If all hosts are one's.
fn by_hosts(upstream: &Upstream) -> Option<&'static str> {
    let name = upstream.tls.as_ref().and_then(|tls| tls.verify.server_name.as_deref());
    let found = match (name, &upstream.discover) {
        (Some(name), _) => Some(name),
        (None, Some(Discovery::Dns(dns))) => Some(dns.name.as_str()),
        (None, _) => None,
    };
    if let Some(host) = found {
        return by_host(host);
    }
    let mut providers = upstream.endpoints.iter().map(|endpoint| by_host(split_port(&endpoint.address).0));
    let first = providers.next()??;
    providers.all(|provider| provider == Some(first)).then_some(first)
}

fn by_host(host: &str) -> Option<&'static str> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let is_bedrock = host.starts_with("bedrock-runtime") && host.ends_with(".amazonaws.com");
    let known = |(name, _): &&(&str, &str)| match name.as_bytes()[0] {
        b'.' | b'-' => host.ends_with(name),
        _ => host == *name,
    };
    is_bedrock.then_some("aws.bedrock").or_else(|| HOSTS.iter().find(known).map(|(_, provider)| *provider))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn provider_of(upstreams: &str) -> Option<String> {
        let text = format!(
            "service: a\nlisteners: [{{ address: '127.0.0.1:0', direction: outbound, routes: [{{ upstream: lm }}] }}]\n\
             upstreams: [{upstreams}]"
        );
        let config = Config::from_yaml(&text).unwrap();
        let lm = config.upstreams.iter().find(|upstream| upstream.name == "lm").unwrap();
        provider(lm, &config.upstreams).map(|provider| provider.to_string())
    }

    #[test]
    fn a_provider_is_said_or_known_by_a_public_host_or_not_at_all() {
        for (lm, expected) in [
            ("{ name: lm, endpoints: ['api.openai.com:443'] }", Some("openai")),
            ("{ name: lm, endpoints: ['eu.api.openai.com:443', 'API.OpenAI.com.:443'] }", Some("openai")),
            ("{ name: lm, endpoints: ['api.openai.com:443', 'api.anthropic.com:443'] }", None),
            ("{ name: lm, endpoints: ['api.openai.com:443', '10.0.0.1:443'] }", None),
            ("{ name: lm, endpoints: ['api.openai.com.evil.example:443'] }", None),
            ("{ name: lm, endpoints: ['notapi.openai.com:443'] }", None),
            ("{ name: lm, endpoints: ['127.0.0.1:8000'] }", None),
            ("{ name: lm, endpoints: ['[::1]:8000'] }", None),
            ("{ name: lm, endpoints: ['127.0.0.1:8000'], gen_ai_provider: vllm }", Some("vllm")),
            ("{ name: lm, endpoints: ['mine.openai.azure.com:443'] }", Some("azure.ai.openai")),
            ("{ name: lm, endpoints: ['bedrock-runtime.eu-west-1.amazonaws.com:443'] }", Some("aws.bedrock")),
            ("{ name: lm, endpoints: ['europe-west4-aiplatform.googleapis.com:443'] }", Some("gcp.vertex_ai")),
            ("{ name: lm, discover: { dns: { name: api.anthropic.com, port: 443 } } }", Some("anthropic")),
            (
                "{ name: lm, endpoints: ['10.0.0.1:443'], tls: { trust: roots.pem, verify: { server_name: api.mistral.ai } } }",
                Some("mistral_ai"),
            ),
            (
                "{ name: all, endpoints: ['api.x.ai:443'] }, { name: lm, subset_of: { upstream: all, labels: { a: b } } }",
                Some("x_ai"),
            ),
        ] {
            assert_eq!(provider_of(lm).as_deref(), expected, "{lm}");
        }
        let why = Config::from_yaml(
            "service: a\nlisteners: [{ address: '127.0.0.1:0', direction: outbound, routes: [{ upstream: lm }] }]\n\
             upstreams: [{ name: lm, endpoints: ['a:1'], gen_ai_provider: '' }]",
        );
        assert!(why.unwrap_err().0.contains("gen_ai_provider is empty"));
    }
}
