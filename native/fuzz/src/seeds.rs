//! Seeds of our own: a few of each kind, and whatever a fuzzer once broke something with, by name.

/// Those for one check.
pub fn own(check: &str) -> Vec<Vec<u8>> {
    let texts: &[&[u8]] = match check {
        "json" => &[
            br#" {"model" : "m\\\u00e9\n\"x" ,"messages":[{"role":"user","content":"\ud83d\ude00 \ud83d."}],"a":{"b":[1,-0.5e+9]},"stream":true}"#,
            br#"{"a":1,"b":[true,false,null],"stream_options":{"include_usage":false},"mod\u0065l":""}"#,
            br#"{"message":{"model":"x","a":{"model":1}},"model":["m"],"model":2}"#,
            br#"{"x":1,"include_usage" : null }"#,
            br#"[{"a":[[[{}]]]},01,"\u12","#,
        ],
        "sse" => &[
            b": hi\n\ndata: {\"model\":\"m\",\"choices\":[{\"finish_reason\":null}],\"usage\":null}\n\ndata: {\"choices\":[{\"finish_reason\": \"stop\"}]}\r\n\r\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\"prompt_tokens_details\":{\"cached_tokens\":2}}}\n\ndata: [DONE]\n\n",
            b"\xef\xbb\xbfevent: message_start\rdata: {\"type\":\"message_start\",\"message\":{\"model\":\"a\",\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\r\revent: message_delta\ndata: {\"type\":\"message_delta\",\ndata: \"usage\":{\"output_tokens\":9}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            b"event: error\ndata: {\"error\":{\"message\":\"m\"}}\n\ndata: {\"type\":\"response.failed\",\"response\":{\"model\":\"m\",\"usage\":{\"input_tokens\":1}}}\n\n",
            br#"{"id":1,"model":"m","choices":[{"usage":{"prompt_tokens":1}}],"usage" : {"prompt_tokens":3,"completion_tokens":4,"total_tokens":7},"error":null} "#,
            br#"{"x_groq":{"usage":{"prompt_tokens":5}},"message":{"model":"m"},"usageMetadata":{"promptTokenCount":5,"thoughtsTokenCount":2},"meta":{"tokens":{"input_tokens":7.0,"output_tokens":1}}}"#,
        ],
        "head" => &[
            b"POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: gateway:8080\r\nContent-Type: application/json\r\nContent-Length: 300\r\nAuthorization: Bearer k\r\nX-Request-Id: own.1\r\nUser-Agent: a/1 (b)\r\nAccept: */*\r\nX-A: 1\r\n\r\n{}",
            b"GET http://a.b:80/%7Ea/b HTTP/1.1\r\nhost: A.B:80\r\nconnection: close, x-a\r\nx-a: \t1 \r\ntraceparent: 00\r\n\r\nGET / HTTP/1.0\r\n\r\n",
            b"\r\nOPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\nServer: s\r\nSet-Cookie: a=b\r\nx-ratelimit-limit-requests: 5\r\nCF-Ray: 1\r\nX-A: b\r\n\r\n",
            b"HTTP/1.0 429\r\nretry-after: 1\r\ncontent-length: 2\r\ncontent-length: 2\r\nconnection: keep-alive, retry-after\r\n\r\n{}",
            // A header by the name of an option that every connection knows.
            b"HTTP/1.1 200 OK\r\nclose: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: keep-alive, Close\r\n\r\nGET / HTTP/1.1\r\n",
            b"HTTP/1.1 304 Not \xc3\xa4\r\ncontent-encoding: gzip\r\ncontent-length: 20000\r\n\r\n",
        ],
        "chunk" => &[
            b"3\r\nabc\r\n10;x=\"y z\"\r\n0123456789abcdef\r\n000\r\na: b\r\nc:\r\n\r\nGET /",
            b"f\r\ndata: {\"a\":1}\n\n\r\n0\r\n\r\n",
            b"ffffffffffffffff\r\nabc",
            b"0\r\nX: y\r\nContent-Length: 1\r\n\r\n",
        ],
        "frame" => &[
            b"\x01\x04frag\x89\x04ping\x00\x02ab\x80\x00\xc2\x03abc\x88\x05\x03\xe8bye",
            b"\x81\x83\x01\x02\x03\x04abc\x8a\x80\x01\x02\x03\x04\x88\x82\xaa\xbb\xcc\xdd\xa9\x52",
            b"\x82\x7e\x00\x80................................................................................................................................\x88\x00",
            b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
            // A length of all ones, of what goes on.
            b"\x01\x01a\x00\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x82\xfe\x10\x00\x00\x00\x00\x00abc",
        ],
        "token" => &[
            br#"{"alg":"HS256","typ":"at+jwt","kid":"k\/1","cty":"json","x":[1e9,-0.5,1e400,NaN,null,true]}"#,
            br#"{"iss":"https:\/\/a.example","sub":"ada","aud":["a","b"],"exp":1000000300,"nbf":1e9,"iat":999999999.5,"org":{"name":7},"roles":["r",1,null],"groups":"Former Admins","scope":"m1  m2"}"#,
            br#"{"sub":"\u00e9\ud83d\ude00","s\u0075b":"\ud83d","exp":123456789012345678901234567890,"a":{"b":1,"b":2}}"#,
            b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIiwiZXhwIjoxMDAwMDAwMzAwfQ.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            b"eyJhbGciOiJub25lIn0.e30.",
        ],
        _ => &[],
    };
    texts.iter().map(|text| text.to_vec()).collect()
}
