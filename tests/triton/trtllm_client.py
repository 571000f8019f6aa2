"""A stock client: `tritonclient`, and the tensor names of TensorRT-LLM's examples; knows nothing of this project.

python trtllm_client.py http|grpc|stream URL PROMPT
"""

import argparse
import queue
import sys

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient


def prepare_inputs(client, prompt, streaming):
    """The request that TensorRT-LLM's example clients make."""
    data = {
        "text_input": np.array([[prompt]], dtype=object),
        "max_tokens": np.array([[24]], dtype=np.int32),
        "bad_words": np.array([[""]], dtype=object),
        "stop_words": np.array([[""]], dtype=object),
        "end_id": np.array([[-1]], dtype=np.int32),
        "pad_id": np.array([[2]], dtype=np.int32),
        "top_k": np.array([[1]], dtype=np.int32),
        "top_p": np.array([[0.0]], dtype=np.float32),
        "temperature": np.array([[1.0]], dtype=np.float32),
        "length_penalty": np.array([[1.0]], dtype=np.float32),
        "repetition_penalty": np.array([[1.0]], dtype=np.float32),
        "presence_penalty": np.array([[0.0]], dtype=np.float32),
        "frequency_penalty": np.array([[0.0]], dtype=np.float32),
        "min_tokens": np.array([[1]], dtype=np.int32),
        "random_seed": np.array([[7]], dtype=np.uint64),
        "beam_width": np.array([[1]], dtype=np.int32),
        "return_log_probs": np.array([[True]]),
        "stream": np.array([[streaming]]),
    }
    types = {np.dtype(object): "BYTES", np.dtype(np.int32): "INT32", np.dtype(np.uint64): "UINT64"}
    types |= {np.dtype(np.float32): "FP32", np.dtype(bool): "BOOL"}
    inputs = []
    for name, array in data.items():
        tensor = client.InferInput(name, array.shape, types[array.dtype])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def infer(client, url, prompt):
    """One request, one response."""
    with client.InferenceServerClient(url) as triton:
        result = triton.infer("ensemble_unary", prepare_inputs(client, prompt, streaming=False))
        return [result.as_numpy("text_output")[0].decode()]


def stream(url, prompt):
    """One request, a response for each piece of text."""
    results = queue.Queue()
    with grpcclient.InferenceServerClient(url) as triton:
        triton.start_stream(callback=lambda result, error: results.put((result, error)))
        inputs = prepare_inputs(grpcclient, prompt, streaming=True)
        triton.async_stream_infer("ensemble", inputs, enable_empty_final_response=True)
        pieces, final = [], False
        while not final:
            result, error = results.get(timeout=60)
            if error is not None:
                raise error
            final = result.get_response().parameters["triton_final_response"].bool_param
            if result.as_numpy("text_output") is not None:
                pieces.append(result.as_numpy("text_output")[0].decode())
        triton.stop_stream()
    return pieces


def main():
    """Ask as the command line says and write the pieces of text, one a line, as Python writes strings."""
    parser = argparse.ArgumentParser()
    parser.add_argument("protocol", choices=["http", "grpc", "stream"])
    parser.add_argument("url")
    parser.add_argument("prompt")
    args = parser.parse_args()
    if args.protocol == "stream":
        pieces = stream(args.url, args.prompt)
    else:
        client = httpclient if args.protocol == "http" else grpcclient
        pieces = infer(client, args.url, args.prompt)
    sys.stdout.writelines(f"{piece!a}\n" for piece in pieces)


if __name__ == "__main__":
    main()
