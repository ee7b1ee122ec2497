vcl 4.1;
# The origin is the nginx beside it; everything is kept for long.
backend default { .host = "127.0.0.1"; .port = "ORIGIN"; }
sub vcl_backend_response { set beresp.ttl = 1h; set beresp.do_stream = true; }
